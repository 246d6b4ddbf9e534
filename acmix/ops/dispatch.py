"""Which implementation of an operator runs: the first in the list that can, unless `use` forces one.

An implementation is a module-like object that has a function of each operator's name and of its gradient. It says for
a case, in words, why it cannot run it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from acmix.errors import UsageError
from acmix.ops import cpu, cpu_build, local, patchwise, reference

OPERATORS = ("conv_path", "window_attention", "local_attention", "patchwise_attention")
WITH_TRITON = OPERATORS[:3]


@dataclass(frozen=True)
class Case:
    """What is asked of an implementation."""

    operator: str
    device: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Implementation:
    """One way to compute the operators.

    Args:
        name: what `use` calls it.
        functions: operator's name, or that with `_backward`, to the function.
        can_run: the reason why a case is out of its reach, or None where it runs it.
        why_not: the reason why it runs nothing on this machine, or None.
    """

    name: str
    functions: dict[str, Callable[..., Any]]
    can_run: Callable[[Case], str | None]
    why_not: Callable[[], str | None] = lambda: None

    def reason_against(self, case: Case) -> str | None:
        """Why it does not run a case, or None where it does."""
        if not {case.operator, case.operator + "_backward"} <= self.functions.keys():
            return f"has no kernel for {case.operator} in this version of acmix"
        return self.can_run(case) or self.why_not()


def functions_of(*modules: Any) -> dict[str, Callable[..., Any]]:
    """The operators and gradients that modules of implementations define."""
    names = [name + suffix for name in OPERATORS for suffix in ("", "_backward")]
    return {name: getattr(module, name) for module in modules for name in names if hasattr(module, name)}


def cpu_can_run(case: Case) -> str | None:
    """The reason why a case is out of the CPU kernels' reach."""
    if case.device != "cpu":
        return f"runs on a CPU only, and the data is on {case.device}"
    if case.dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, and the data is {str(case.dtype).removeprefix('torch.')}"
    return None


def triton_can_run(case: Case) -> str | None:
    """The reason why a case is out of the GPU kernels' reach."""
    if case.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, and the data is {str(case.dtype).removeprefix('torch.')}"
    if case.device == "cuda":
        return None
    if case.device != "cpu" or not triton_interpreted():
        return f"runs on a GPU only, and the data is on {case.device}"
    if case.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies bfloat16 wrongly"
    return None if _forced == "triton" else "Triton's interpreter proves kernels and is slow; it runs when forced"


def triton_why_not() -> str | None:
    """The reason why the GPU kernels run nothing on this machine."""
    return None if triton_interpreted() and find_spec("triton") else gpu_why_not()


@cache
def gpu_why_not() -> str | None:
    """The reason why this machine has no GPU for the kernels; looked up once, since every call of an operator asks."""
    if find_spec("triton") is None:
        return "triton is not installed; `pip install triton`"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    major = torch.cuda.get_device_capability()[0]
    return None if major >= 8 else f"needs a GPU of compute capability 8 or newer, and this one has {major}"


def triton_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: a proof that needs no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def in_module(name: str) -> dict[str, Callable[..., Any]]:
    """An operator and its gradient in a module that is imported when they are first called."""

    def called(function: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            # Triton starts kernels on the current GPU, which need not be the data's
            with torch.cuda.device_of(arguments[0]):
                return getattr(import_module(f"acmix.ops.triton_{name}"), function)(*arguments)

        return call

    return {function: called(function) for function in (name, name + "_backward")}


TRITON = {function: call for name in WITH_TRITON for function, call in in_module(name).items()}

# Fastest first; the reference runs everything and comes last.
IMPLEMENTATIONS = [
    Implementation("triton", TRITON, triton_can_run, triton_why_not),
    Implementation("cpu", functions_of(cpu), cpu_can_run, cpu_build.why_not),
    Implementation("reference", functions_of(reference, local, patchwise), lambda case: None),
]

HINT = (
    'To force one: `with acmix.ops.use("reference"): ...`. '
    "CPU kernels: `acmix build` builds them, ACMIX_CPU_KERNELS=0 switches them off"
)

# A plain global, not a context variable: autograd runs gradients in threads of its own.
_forced: str | None = None


@contextmanager
def use(name: str) -> Iterator[None]:
    """Forces one implementation for every operator called inside, forward and backward.

    Args:
        name: "reference", "cpu" or "triton".

    Raises:
        ValueError: no such implementation, or it cannot run on this machine.
    """
    global _forced
    chosen = next((each for each in IMPLEMENTATIONS if each.name == name), None)
    if chosen is None:
        names = ", ".join(repr(each.name) for each in IMPLEMENTATIONS)
        raise UsageError(f"no implementation {name!r}; there are {names}")
    reason = chosen.why_not() if chosen.functions else "has no kernels in this version of acmix"
    if reason:
        raise UsageError(f"implementation {name!r} cannot run: {reason}; `acmix.ops.explain()` lists what can")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def run(operator: str, *arguments: Any) -> Any:
    """Calls an operator, or its gradient, in the implementation that its first tensor asks for."""
    first: Tensor = arguments[0]
    case = Case(operator.removesuffix("_backward"), first.device.type, first.dtype)
    return choose(case).functions[operator](*arguments)


def choose(case: Case) -> Implementation:
    """The implementation that runs a case."""
    for each in IMPLEMENTATIONS:
        if _forced in (None, each.name):
            reason = each.reason_against(case)
            if reason is None:
                return each
            if _forced:
                raise UsageError(f"implementation {_forced!r} cannot run {case.operator} on {case.device}: {reason}")
    raise AssertionError("the reference runs every case")


class Table(str):
    """Text that an interactive session shows as it reads."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def explain(device: str | None = None, dtype: torch.dtype = torch.float32) -> Table:
    """Tells which implementation runs each operator, and why each other one does not.

    To know, it builds the CPU kernels if they were never built here, as the first call of an operator would.

    Args:
        device: "cpu" or "cuda"; the GPU where there is one, by default.
        dtype: the dtype of the data.

    Returns:
        A table as text: operator, implementation, runs or the reason against, and how to change it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = [("operator", "implementation", f"on {device}, {str(dtype).removeprefix('torch.')}")]
    for operator in OPERATORS:
        case = Case(operator, device, dtype)
        chosen = choose(case)
        for each in IMPLEMENTATIONS:
            reason = each.reason_against(case) or "can run; a faster one does, or another is forced"
            rows.append((operator, each.name, "runs" if each is chosen else reason))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    return Table("\n".join([*lines, HINT]))
