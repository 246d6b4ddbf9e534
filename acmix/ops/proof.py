"""A kernel proves itself where it runs: on its first use, output and gradients of small cases equal the definition.

The first use is that of an operator, by an implementation, in a format, on a device. A kernel that is right there is
noted in the cache folder, by processor or card, versions and sources, and not tried again. One that is wrong, or fails,
is out of use in this process, with one line; `acmix.ops.explain` keeps the reason. A trial for which there is no
memory, thread or disk just now says nothing of a kernel: it runs, and the next call tries again.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acmix.ops import build, triton_launch

# shares of the size that `errors` may give: of all numbers together, and of a single one
BOUNDS = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-3, 1e-2), torch.bfloat16: (1e-2, 5e-2)}
# what says nothing of a kernel
FOR_NOW = (MemoryError, OSError, torch.OutOfMemoryError)

_answers: dict[tuple[Any, ...], str | None] = {}
# held during a trial; a signal's handler may interrupt one and call an operator
_guard = threading.RLock()
_trying = False


def _begin_anew() -> None:
    """In a process that was forked while another thread had a trial."""
    global _guard, _trying
    _guard, _trying = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class NotNow(Exception):
    """A trial could not take place."""


def reason_against(implementation: str, operator: Any, data: Any) -> str | None:
    """Why an implementation is out of use for such data, or None where it is right; the first call tries it.

    Args:
        implementation: its name.
        operator: a `dispatch.Operator`.
        data: the first argument of a call, or what describes it.
    """
    global _trying
    asked = (implementation, operator.name, data.dtype, str(data.device))
    if asked not in _answers:
        with _guard:
            if asked not in _answers and not _trying:
                _trying = True
                try:
                    _answers[asked] = found(implementation, operator, data)
                except NotNow:
                    return None
                finally:
                    _trying = False
    return _answers.get(asked)


def found(implementation: str, operator: Any, data: Any) -> str | None:
    """The answer, from the cache folder or from a trial.

    Raises:
        NotNow: there can be none just now.
    """
    name = noted_as(implementation, operator.name, data.dtype, data.device)
    if any(build.is_ours(folder / name) for folder in filter(build.is_ours, folders())):
        return None
    if data.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise NotNow
    wrong = tried(operator, operator.parts[implementation], data.dtype, data.device)
    if wrong is None:
        note(name)
        return None
    reason = f"its kernel {wrong}; please report it"
    kind, rank = str(data.dtype).removeprefix("torch."), os.environ.get("RANK")
    who = f"{operator.name}, {implementation}, {kind}{'' if rank is None else f', process {rank}'}"
    build.say(f"acmix: {who}: {reason}; the slower reference runs\n")
    return reason


def folders() -> list[Path]:
    """Where notes lie: with the libraries, which only POSIX systems have."""
    return build.cache_folders() if os.name == "posix" else []


def note(name: str) -> None:
    """Notes that a kernel is right; where no folder can be had, each process tries it."""
    try:
        place = build.make_folder(folders()) / name
        # one with others' rights would never be believed
        place.unlink(missing_ok=True)
        place.touch(mode=0o600)
    except (OSError, build.CannotBuild):
        return


def noted_as(implementation: str, operator: str, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the note, made from all that decides whether a kernel is right."""
    if device.type == "cuda":
        import triton

        about = torch.cuda.get_device_properties(device)
        where: tuple[Any, ...] = about.name, about.major, about.minor, getattr(about, "gcnArchName", "")
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


class Trial(threading.Thread):
    """Computes small cases in a thread of its own, which knows nothing of the caller's autocast, transforms and modes.

    Args:
        operator: a `dispatch.Operator`.
        kernels: the module that computes it.
        dtype, device: of the data.
    """

    def __init__(self, operator: Any, kernels: Any, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(daemon=True)
        self.case = operator, kernels, dtype, device
        self.wrong: str | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Compares; an error is kept for the caller."""
        try:
            with triton_launch.untimed():
                self.wrong = compared(*self.case)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise


def tried(operator: Any, kernels: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """What is wrong with a kernel on small cases, in words that follow "its kernel", or None.

    Raises:
        NotNow: there is no memory, thread or disk for it just now.
    """
    trial = Trial(operator, kernels, dtype, device)
    try:
        trial.start()
    except RuntimeError as error:
        # at the interpreter's end, or where no more threads may be had
        raise NotNow from error
    trial.join()
    if isinstance(trial.error, FOR_NOW):
        raise NotNow from trial.error
    if trial.error is not None:
        return f"fails here: {type(trial.error).__name__}: {trial.error}".splitlines()[0][:200]
    return None if trial.wrong is None else f"is wrong here: {trial.wrong}"


def compared(operator: Any, kernels: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """The first result that is further from the definition in float64 than rounding explains."""
    spec, reference = operator.parts["spec"], operator.parts["reference"]
    for case in operator.parts["cases"].PROOF:
        with torch.no_grad(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            # as networks under autocast have them
            made = case.tensors(dtype, parameters=torch.float32)
            tensors = {name: each.detach() for name, each in made.items()}
            given = {**dict.fromkeys(spec.Arguments._fields), **case.settings}
            exact = spec.Arguments(**{**given, **{name: each.double() for name, each in tensors.items()}})
            here = spec.Arguments(**{**given, **{name: each.to(device) for name, each in tensors.items()}})
            if kernels.why_not(here):
                continue
            expected = reference.forward(exact)
            upstream = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).view(expected.shape).to(dtype)
            wanted = (expected, *reference.backward(upstream.double(), exact))
            got = (kernels.forward(here), *kernels.backward(upstream.to(device), here))
        derived = [name for name in tensors if name not in getattr(spec, "ADDED", ())]
        names = ("output", *(f"gradient of {name}" for name in derived))
        for name, one, other in zip(names, present(got), present(wanted), strict=True):
            whole, single = errors(one.double().cpu(), other)
            # NaN is no less than a bound
            if not (whole <= BOUNDS[dtype][0] and single <= BOUNDS[dtype][1]):
                return (
                    f"the {name} of a small case ({case.name}) is off by {whole:.2g} of its size, at most {single:.2g}"
                )
    return None


def errors(got: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Of two tensors: the root mean square of their difference, and the largest one, each in shares of the size.

    A number's size is its own, or the root mean square of all where that is more.
    """
    size = wanted.square().mean().sqrt()
    difference = (got - wanted).abs()
    return (difference.square().mean().sqrt() / size).item(), (difference / wanted.abs().clamp(min=size)).max().item()


def present(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Those that are there."""
    return [each for each in tensors if each is not None]
