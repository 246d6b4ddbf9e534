"""What local attention takes, what comes of it, and what that costs.

Shapes: see `acmix.ops.local_attention`; Ho, Wo of the output
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from torch import Tensor

# the CPU kernel's tables of a neighbourhood's side hold so many
MOST_SIDE = 255


class Arguments(NamedTuple):
    """The arguments of every implementation, in this order."""

    qkv: Tensor  # (B, H, W, 3, N, D)
    position: Tensor | None  # (H, W, D)
    size: tuple[int, int]
    stride: int
    dilation: int
    scale: float


# the arguments whose dimension 0 counts images; all images share the others
MAPS = ("qkv",)


def output(arguments: Arguments) -> Tensor:
    """An unwritten output: (B, Ho, Wo, C)."""
    batch, height, width, _, heads, channels = arguments.qkv.shape
    stride = arguments.stride
    return arguments.qkv.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, heads * channels)


def multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds forward: queries times keys, weights times values."""
    return 2 * prod(arguments.size) * out.numel()


def backward_multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds backward, the weights made again among them."""
    return 5 * prod(arguments.size) * out.numel()
