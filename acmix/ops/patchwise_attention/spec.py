"""What patchwise attention takes, what comes of it, and what that costs.

Shapes: see `acmix.ops.patchwise_attention`
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """The arguments of every implementation, in this order."""

    values: Tensor  # (B, H, W, C)
    weights: Tensor  # (B, H, W, Ky·Kx, G)
    size: tuple[int, int]


# the arguments whose dimension 0 counts images; all images share the others
MAPS = ("values", "weights")


def output(arguments: Arguments) -> Tensor:
    """An unwritten output: (B, H, W, C)."""
    return arguments.values.new_empty(arguments.values.shape)


def multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds forward."""
    return prod(arguments.size) * out.numel()


def backward_multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds backward."""
    return 2 * prod(arguments.size) * out.numel()
