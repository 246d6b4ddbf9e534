"""What the public functions share: checks of arguments, pairs of numbers, and autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from acmix.errors import UsageError


def pair(value: int | Sequence[int], name: str = "size") -> tuple[int, int]:
    """(rows, columns) of a number or a pair."""
    if isinstance(value, (tuple, list)):
        expect(len(value) == 2, f"{name}={value}; expected a number or two")
        rows, columns = value
        return rows, columns
    return value, value  # type: ignore[return-value]


def expect(holds: bool, message: str | Callable[[], str]) -> None:
    """Refuses arguments that do not fit; a message that every call would write is made only where it is said."""
    if not holds:
        raise UsageError(message if isinstance(message, str) else message())


def autocast(data: Tensor) -> Tensor:
    """Data in autocast's dtype where autocast is on, as a convolution would take it; parameters keep their own."""
    device = data.device.type
    if device != "meta" and data.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return data.to(torch.get_autocast_dtype(device))
    return data
