"""Catches the launches of GPU kernels: tensors have shapes and no data, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from acmix.ops.dispatch import OPERATORS


@dataclass(frozen=True)
class Launch:
    """A kernel with what it is called with.

    Args:
        kernel: as it stands in its module, with its choices of settings where it has some.
        grid: programs in each dimension.
        values, named: the arguments.
    """

    kernel: Any
    grid: tuple[int, ...]
    values: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def function(self) -> Any:
        """The kernel without its choices."""
        return self.kernel.fn if isinstance(self.kernel, Autotuner) else self.kernel

    @property
    def bytes(self) -> int:
        """Of all its tensors, each once, which is the least that it moves."""
        tensors = [each for each in (*self.values, *self.named.values()) if isinstance(each, Tensor)]
        return sum(bytes_of(each) for each in {id(each): each for each in tensors}.values())


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor's different numbers; a dimension without a step repeats the same ones."""
    found = tensor.element_size()
    for side, step in zip(tensor.shape, tensor.stride(), strict=True):
        found *= side if step or not side else 1
    return found


@contextmanager
def caught() -> Iterator[list[Launch]]:
    """Inside, a launch is told in a list in place of running."""
    found: list[Launch] = []

    def launched(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *values, **named: found.append(Launch(kernel, grid, values, named))

    before = Autotuner.__getitem__, JITFunction.__getitem__
    Autotuner.__getitem__ = JITFunction.__getitem__ = launched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Autotuner.__getitem__, JITFunction.__getitem__ = before  # type: ignore[method-assign]


def of_call(operator: str, arguments: Any) -> tuple[list[Launch], list[Launch]]:
    """The launches of an operator's forward and of its backward pass.

    Args:
        operator: its name.
        arguments: its `Arguments`, of tensors on the device `meta`.
    """
    kernels = OPERATORS[operator].parts["triton"]
    with torch.no_grad(), caught() as found:
        out = kernels.forward(arguments)
        forward = [*found]
        found.clear()
        kernels.backward(torch.empty_like(out), arguments)
    return forward, found


def described(case: Any, dtype: torch.dtype, batch: int) -> Any:
    """The arguments of a network's call on a batch of images, tensors without data.

    Args:
        case: of the operator's `NETWORKS`.
        dtype: of the data; parameters are float32.
        batch: images.
    """
    spec = OPERATORS[case.operator].parts["spec"]
    given: dict[str, Any] = {**dict.fromkeys(spec.Arguments._fields), **case.settings}
    for name, each in case.tensors().items():
        shape = (batch, *each.shape[1:]) if name in spec.MAPS else each.shape
        given[name] = torch.empty(shape, dtype=torch.float32 if name in case.parameters else dtype, device="meta")
    if given.get("scale", 0.0) is None:
        given["scale"] = 1.0
    return spec.Arguments(**given)
