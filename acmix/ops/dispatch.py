"""Finds the operators' folders, and chooses what computes a call: the first that can, unless `use` forces one.

Each folder has three modules that compute its operator, `triton`, `cpu` and `reference`; each has `forward`, `backward`
and `why_not`, which takes the arguments of a call and returns, in words, why it does not run them, or None.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from acmix.errors import UsageError
from acmix.near import did_you_mean
from acmix.ops import build, library, proof, triton_launch
from acmix.ops.derivatives import derivative_taken
from acmix.ops.leaving import any_size, leaves_pytorch
from acmix.ops.unseen import are_ordinary, is_unseen

COMPUTES = ("forward", "backward", "why_not")
# the modules of an operator's folder, and what each defines
PARTS = {
    "spec": ("Arguments", "MAPS", "output", "multiply_adds", "backward_multiply_adds"),
    "reference": COMPUTES,
    "cpu": COMPUTES,
    "triton": COMPUTES,
    "cases": ("CASES", "NETWORKS", "PROOF"),
}
# what a folder may have besides; without it, graphs that leave PyTorch hold the reference
PORTABLE = "portable"

# by name, in the order of the alphabet: the public function, and the modules of its folder
OPERATORS: dict[str, Operator] = {}
# the nodes of their gradients, which PyTorch's dispatcher would make
NODES: dict[str, Any] = {}


@dataclass(frozen=True)
class Operator:
    """A folder of `acmix.ops`.

    Args:
        name: the folder's, and that of the public function in it.
        function: the public function.
        parts: the folder's modules by name.
    """

    name: str
    function: Callable[..., Tensor]
    parts: Mapping[str, Any]


@dataclass(frozen=True)
class Implementation:
    """One way to compute the operators.

    Args:
        name: what `use` calls it.
        operators: operator's name to what has its `forward`, `backward` and `why_not`.
        why_not: the reason why it runs nothing on this machine, or None.
        unless_forced: the reason why it does not run some data that it can, unless `use` names it, or None.
        proof: the reason why an operator's kernel is out of use for such data, which the first call finds out, or None.
        remark: what `explain` says where it runs.
    """

    name: str
    operators: dict[str, Any] = field(default_factory=dict)
    why_not: Callable[[], str | None] = lambda: None
    unless_forced: Callable[[Tensor], str | None] = lambda data: None
    proof: Callable[[str, Operator, Any], str | None] | None = None
    remark: str = ""

    def reason_against(self, operator: str, arguments: Any) -> str | None:
        """Why it does not run these arguments, or None where it does."""
        reason = self.operators[operator].why_not(arguments) or self.why_not()
        reason = reason or (None if _forced == self.name else self.unless_forced(arguments[0]))
        return reason or (self.proof(self.name, OPERATORS[operator], arguments[0]) if self.proof else None)


# fastest first; the reference runs everything and comes last
IMPLEMENTATIONS = [
    # the interpreter is itself a proof
    Implementation(
        "triton",
        {},
        triton_launch.machine_why_not,
        triton_launch.unless_forced,
        None if triton_launch.INTERPRETED else proof.reason_against,
        "" if triton_launch.INTERPRETED else "; no GPU had run it when this version was made, so it proved itself",
    ),
    Implementation("cpu", {}, build.why_not, proof=proof.reason_against),
    Implementation("reference", {}),
]

HINT = (
    'To force one: `with acmix.ops.use("reference"): ...`. '
    "CPU kernels: `acmix build` builds them, ACMIX_CPU_KERNELS=0 switches them off"
)

# of a kernel, in a call that asks for more than its output and its first gradient
NO_DERIVATIVE = "torch.func, forward mode and create_graph=True take the derivatives of the definition"

# A plain global, not a context variable: autograd runs gradients in threads of its own.
_forced: str | None = None


def find_operators(package: str) -> dict[str, Operator]:
    """The operators of a package: its folders.

    Raises:
        ImportError: a folder lacks a part, or a part lacks a function.
    """
    found = {}
    for name in sorted(each.name for each in pkgutil.iter_modules(import_module(package).__path__) if each.ispkg):
        folder = import_module(f"{package}.{name}")
        if not callable(getattr(folder, name, None)):
            raise ImportError(f"operator {name!r} lacks its public function: {package}.{name}.{name}")
        there = {each.name for each in pkgutil.iter_modules(folder.__path__)}
        parts = {}
        for part, needed in PARTS.items():
            if part not in there:
                raise ImportError(f"operator {name!r} lacks a part: {package}.{name}.{part}")
            parts[part] = import_module(f"{package}.{name}.{part}")
            for missing in (each for each in needed if not hasattr(parts[part], each)):
                raise ImportError(f"operator {name!r} lacks {missing!r} in {package}.{name}.{part}")
        if PORTABLE in there:
            parts[PORTABLE] = import_module(f"{package}.{name}.{PORTABLE}")
        found[name] = Operator(name, getattr(folder, name), parts)
    return found


def load_operators(package: str) -> None:
    """Finds the operators of a package and makes them known here and to PyTorch; once, when it is imported."""
    for name, operator in find_operators(package).items():
        OPERATORS[name] = operator
        for each in IMPLEMENTATIONS:
            each.operators[name] = operator.parts[each.name]
        NODES[name] = library.register(
            name, operator.parts["spec"], partial(forward, name), partial(backward, name), partial(define, name)
        )


def run(operator: str, arguments: Any) -> Tensor:
    """Computes an operator: one node of a graph for PyTorch, and its definition in a graph that leaves PyTorch."""
    if leaves_pytorch():
        parts = OPERATORS[operator].parts
        with any_size():
            return parts.get(PORTABLE, parts["reference"]).forward(arguments)
    if not (is_unseen(arguments) and are_ordinary(arguments, NODES[operator].kinds)):
        return getattr(torch.ops.acmix, operator).default(*arguments)
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in arguments):
        return NODES[operator].apply(*arguments)
    return compute(operator, arguments)


def forward(operator: str, arguments: Any) -> Tensor:
    """The output, of arguments that nobody has checked: a graph's or a caller's of `torch.ops.acmix`."""
    check = getattr(OPERATORS[operator].parts["spec"], "check", None)
    if check:
        check(arguments)
    return compute(operator, arguments)


def compute(operator: str, arguments: Any) -> Tensor:
    """The output, by the implementation that the arguments ask for."""
    chosen = choose(operator, arguments).operators[operator]
    # Triton starts kernels on the current GPU, which need not be the data's
    with torch.cuda.device_of(arguments[0]):
        return chosen.forward(arguments)


def backward(operator: str, grad: Tensor, arguments: Any, onto: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """The gradients of all tensors, by the implementation that the arguments of the forward pass ask for.

    Args:
        operator: its name.
        grad: the output's gradient.
        arguments: of the forward pass.
        onto: a gradient of the first tensor, which the one that is found is added to.
    """
    implementation = choose(operator, arguments)
    chosen = implementation.operators[operator]
    with torch.cuda.device_of(arguments[0]):
        if onto is None:
            return chosen.backward(grad, arguments)
        if implementation.name == "cpu" and onto.is_contiguous():
            return chosen.backward(grad, arguments, onto)
        found = chosen.backward(grad, arguments)
        return onto.add_(found[0]), *found[1:]


def define(operator: str, what: str, arguments: Any, *more: Any) -> Any:
    """The same as `forward` or `backward`, in PyTorch's own operators, which have every derivative."""
    if _forced not in (None, "reference"):
        raise UsageError(
            f"implementation {_forced!r} cannot run {operator}: {NO_DERIVATIVE}; force 'reference', or nothing"
        )
    return getattr(OPERATORS[operator].parts["reference"], what)(*more, arguments)


def choose(operator: str, arguments: Any) -> Implementation:
    """The implementation that runs these arguments."""
    for each in IMPLEMENTATIONS:
        if _forced in (None, each.name):
            reason = each.reason_against(operator, arguments)
            if reason is None:
                return each
            if _forced:
                device = arguments[0].device.type
                raise UsageError(f"implementation {_forced!r} cannot run {operator} on {device}: {reason}")
    raise AssertionError("the reference runs every case")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Forces one implementation for every operator called inside, forward and backward.

    What it cannot run is an error where it is called, never computed by another one: a kernel has an output and a first
    gradient, and only "reference" has the derivatives that `torch.func`, forward mode and `create_graph=True` take.

    Args:
        name: "reference", "cpu" or "triton".

    Raises:
        ValueError: no such implementation, or it cannot run on this machine.
    """
    global _forced
    chosen = next((each for each in IMPLEMENTATIONS if each.name == name), None)
    if chosen is None:
        names = [each.name for each in IMPLEMENTATIONS]
        hint = did_you_mean(str(name), names, otherwise=f"expected one of {', '.join(map(repr, names))}")
        raise UsageError(f"no implementation {name!r}; {hint}")
    reason = chosen.why_not()
    if reason:
        raise UsageError(f"implementation {name!r} cannot run: {reason}; `acmix.ops.explain()` lists what can")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


@dataclass(frozen=True)
class Described:
    """What an implementation asks of a tensor before it runs: all that `why_not` may read."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def usual(operator: str, device: str, dtype: torch.dtype) -> Any:
    """Arguments as networks have them, described only, so that this machine need not have the device."""
    case = OPERATORS[operator].parts["cases"].CASES[0]
    # neither a default device nor autocast changes what is described
    with torch.device("cpu"):
        arguments = arguments_of(operator, **case.tensors(), **case.settings)
    place = torch.device(device)
    return arguments._make(
        Described(each.shape, dtype, place) if isinstance(each, Tensor) else each for each in arguments
    )


def arguments_of(operator: str, *values: Any, **named: Any) -> Any:
    """What the public function hands to the implementations, after its checks and autocast; nothing is computed."""
    with Caught(operator) as caught:
        OPERATORS[operator].function(*values, **named)
    return OPERATORS[operator].parts["spec"].Arguments(*caught.values)


class Caught(TorchFunctionMode):
    """Keeps the arguments of an operator called inside, in place of a call."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = getattr(torch.ops.acmix, operator)
        self.values: tuple[Any, ...] = ()

    def __torch_function__(self, function: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        if function not in (self.operator, self.operator.default):
            return function(*values, **(named or {}))
        self.values = values
        return values[0]


class Table(str):
    """Text that an interactive session shows as it reads."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def explain(
    what: str | None = None,
    *arguments: Any,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Table:
    """Tells which implementation runs each operator, and why each other one does not.

        acmix.ops.explain()                                             all operators, as networks call them
        acmix.ops.explain("cuda", dtype=torch.float64)                  the same, of such data
        acmix.ops.explain("window_attention", qkv, table, window=40)    this very call

    To know, it builds the CPU kernels if they were never built here, and tries a kernel that was never used here on one
    small case, as the first call of an operator would.

    Args:
        what: an operator's name, for that operator alone; or a device.
        arguments: of the operator, as its function takes them; under autocast they are cast as in a call.
        device: "cpu", "cuda" or another of torch's, where no arguments tell it; the accelerator where there is one, by
            default.
        dtype: the dtype of the data, where no arguments tell it.
        settings: of the operator.

    Returns:
        A table as text: operator, implementation, runs or the reason against, and how to change it.

    Raises:
        ValueError: neither an operator nor a device, or arguments that the operator refuses.
    """
    names = list(OPERATORS)
    if isinstance(what, str) and what in OPERATORS:
        names = [what]
    else:
        device, what = device if what is None else what, None
        # as the second of two
        dtype, arguments = (arguments[0], arguments[1:]) if arguments else (dtype, ())
        if arguments or settings:
            raise UsageError(f"the arguments of a call follow an operator's name; expected one of {', '.join(names)}")
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"a {type(dtype).__name__} is no dtype; expected one of torch's, such as torch.float32")
    if what is None or not (arguments or settings):
        if device is None:
            device = str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
        device = device_named(device)
        calls = {name: usual(name, device, dtype) for name in names}
    else:
        calls = {what: arguments_of(what, *arguments, **settings)}
        device, dtype = calls[what][0].device.type, calls[what][0].dtype
    rows = [("operator", "implementation", f"on {device}, {str(dtype).removeprefix('torch.')}")]
    rows += [(name, *row) for name, call in calls.items() for row in explained(name, call)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    return Table("\n".join([*lines, HINT]))


def device_named(name: Any) -> str:
    """A device's type."""
    try:
        return torch.device(name).type
    except (RuntimeError, TypeError) as error:
        shown = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
        raise UsageError(f"{shown} is no operator ({', '.join(OPERATORS)}) and no device") from error


def explained(operator: str, arguments: Any) -> Iterator[tuple[str, str]]:
    """Each implementation, and whether it runs a call or why not."""
    found = False
    derived = derivative_taken(arguments)
    for each in IMPLEMENTATIONS:
        reason = each.reason_against(operator, arguments)
        if reason is None and derived and each.name != "reference":
            reason = NO_DERIVATIVE
        if arguments[0].device.type == "meta":
            reason = "the data is on meta, where only the shape of the result is made"
        elif reason is None and _forced not in (None, each.name):
            reason = f"can run; {_forced!r} is forced"
        elif reason is None and found:
            reason = "can run; a faster one does"
        found = found or reason is None
        yield each.name, reason or f"runs{each.remark}"
