"""A kernel proves itself where it runs: on its first use, output and gradients of one small case equal the definition.

The first use is that of an operator, by an implementation, in a format, on a device. A kernel that is right there is
noted in the cache folder, by processor or card, versions and sources, and not tried again. One that is wrong, or fails,
is out of use in this process, with one line; `acmix.ops.explain` keeps the reason.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acmix.ops import build

# of the largest number of the definition: far more than rounding, far less than a neighbour taken for another
BOUNDS = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

_answers: dict[tuple[Any, ...], str | None] = {}
_guard = threading.Lock()


def reason_against(implementation: str, operator: Any, data: Any) -> str | None:
    """Why an implementation is out of use for such data, or None where it is right; the first call tries it.

    Args:
        implementation: its name.
        operator: a `dispatch.Operator`.
        data: the first argument of a call, or what describes it.
    """
    asked = (implementation, operator.name, data.dtype, str(data.device))
    if asked not in _answers:
        with _guard:
            if asked not in _answers:
                _answers[asked] = found(implementation, operator, data)
    return _answers[asked]


def found(implementation: str, operator: Any, data: Any) -> str | None:
    """The answer, from the cache folder or from a trial."""
    name = noted_as(implementation, operator.name, data.dtype, data.device)
    if any(build.is_ours(folder / name) for folder in build.cache_folders()):
        return None
    wrong = tried(operator, operator.parts[implementation], data.dtype, data.device)
    if wrong is None:
        note(name)
        return None
    reason = f"its kernel is wrong here: {wrong}; please report it"
    if os.environ.get("LOCAL_RANK", "0") == "0":
        kind = str(data.dtype).removeprefix("torch.")
        build.say(f"acmix: {operator.name}, {implementation}, {kind}: {reason}; the slower reference runs\n")
    return reason


def note(name: str) -> None:
    """Notes that a kernel is right; where no folder can be had, each process tries it."""
    try:
        (build.make_folder(build.cache_folders()) / name).touch(mode=0o600)
    except (OSError, build.CannotBuild):
        return


def noted_as(implementation: str, operator: str, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the note, made from all that decides whether a kernel is right."""
    if device.type == "cuda":
        import triton

        where: tuple[Any, ...] = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        where = (*where, torch.version.cuda, torch.version.hip, triton.__version__)
    else:
        # named by processor, compiler and sources
        where = (Path(build.library()._name).name,)
    return f"right-{build.key(implementation, operator, str(dtype), where, torch.__version__, sources())}"


@cache
def sources() -> list[tuple[str, str]]:
    """Names and checksums of all Python files of the operators; `build` knows those of C++."""
    folder = Path(__file__).parent
    return [(path.relative_to(folder).as_posix(), build.checksum(path)) for path in sorted(folder.rglob("*.py"))]


def tried(operator: Any, kernels: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """Computes one small case, and says what is wrong, or None.

    Args:
        operator: a `dispatch.Operator`.
        kernels: the module that computes it.
        dtype, device: of the data.
    """
    # a thread of its own knows nothing of the caller's autocast, transforms, modes and default device
    with ThreadPoolExecutor(1) as pool:
        trial = pool.submit(compared, operator, kernels, dtype, device)
    error = trial.exception()
    # a kernel that cannot be compiled or run here is one that is wrong here
    return trial.result() if error is None else f"{type(error).__name__}: {error}".splitlines()[0][:200]


def compared(operator: Any, kernels: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """The first result that is further from the definition in float64 than rounding explains."""
    case = operator.parts["cases"].PROOF
    with torch.no_grad(), on(device):
        tensors = {name: each.detach().to(dtype) for name, each in case.tensors().items()}
        given = {**dict.fromkeys(operator.parts["spec"].Arguments._fields), **case.settings}
        exact = operator.parts["spec"].Arguments(**{**given, **{name: each.double() for name, each in tensors.items()}})
        here = operator.parts["spec"].Arguments(
            **{**given, **{name: each.to(device) for name, each in tensors.items()}}
        )
        expected = operator.parts["reference"].forward(exact)
        upstream = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).view(expected.shape).to(dtype)
        wanted = (expected, *operator.parts["reference"].backward(upstream.double(), exact))
        got = (kernels.forward(here), *kernels.backward(upstream.to(device), here))
    names = ("output", *(f"gradient of {name}" for name in tensors))
    for name, one, other in zip(names, present(got), present(wanted), strict=True):
        largest = other.abs().max().item()
        error = (one.double().cpu() - other).abs().max().item()
        # NaN is no less than the bound
        if not error <= BOUNDS[dtype] * largest:
            return f"the {name} of a small case differs by {error:.2g} of {largest:.2g}"
    return None


def present(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Those that are there."""
    return [each for each in tensors if each is not None]


def on(device: torch.device) -> Any:
    """The current device of Triton's launches, which need not be the data's in a new thread."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
