"""What the convolution path takes, what comes of it, and what that costs.

Shapes: see `acmix.ops.conv_path`; Ho, Wo of the output
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# the CPU kernel's tables of taps hold so many
MOST_TAPS = 225


class Arguments(NamedTuple):
    """The arguments of every implementation, in this order."""

    pieces: Tensor  # (B, H, W, P, D)
    fc_weight: Tensor  # (T, P)
    fc_bias: Tensor | None  # (T,)
    kernels: Tensor  # (M·D, T, ky, kx)
    stride: int
    dilation: int
    shift: tuple[int, int]


# the arguments whose dimension 0 counts images; all images share the others
MAPS = ("pieces",)


def output(arguments: Arguments) -> Tensor:
    """An unwritten output: (B, Ho, Wo, M·D)."""
    pieces, stride = arguments.pieces, arguments.stride
    batch, height, width = pieces.shape[:3]
    return pieces.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, arguments.kernels.shape[0])


def multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds forward."""
    through_fc, through_kernels = products(arguments, out)
    return through_fc + through_kernels


def backward_multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds backward, fc's maps made again among them."""
    through_fc, through_kernels = products(arguments, out)
    return 3 * through_fc + 2 * through_kernels


def products(arguments: Arguments, out: Tensor) -> tuple[int, int]:
    """Multiply-adds of one product with fc, and of one with the kernels."""
    maps, rows, columns = arguments.kernels.shape[1:]
    return arguments.pieces.numel() * maps, out.numel() * maps * rows * columns
