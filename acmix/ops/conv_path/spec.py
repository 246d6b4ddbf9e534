"""What the convolution path takes, what comes of it, and what that costs.

Shapes: see `acmix.ops.conv_path`; Ho, Wo of the output
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from acmix.errors import UsageError
from acmix.ops.checks import expect

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
    plus: Tensor | None = None  # (B, Ho, Wo, M·D), or (B, tokens + Ho·Wo, M·D)
    plus_bias: Tensor | None = None  # (M·D,)


# the arguments whose dimension 0 counts images; all images share the others
MAPS = ("pieces", "plus")
# the arguments that are added to the output as they are: their gradients are that of the output, or sums over it
ADDED = ("plus", "plus_bias")
# another path's gradient of the same pieces can be handed to `backward`, which adds its own to it: a pass less
ONTO = True


def output(arguments: Arguments) -> Tensor:
    """An unwritten output: (B, Ho, Wo, M·D), or (B, tokens + Ho·Wo, M·D) where what is added is tokens."""
    pieces, plus = arguments.pieces, arguments.plus
    if plus is not None:
        return pieces.new_empty(plus.shape)
    return pieces.new_empty(*map_of_outputs(arguments), arguments.kernels.shape[0])


def map_of_outputs(arguments: Arguments) -> tuple[int, int, int]:
    """(B, Ho, Wo)."""
    batch, height, width = arguments.pieces.shape[:3]
    return batch, (height - 1) // arguments.stride + 1, (width - 1) // arguments.stride + 1


def tokens_before(out: Tensor, arguments: Arguments) -> int:
    """How many tokens without a place stand before an image's pixels in the output, or in its gradient."""
    _, rows, columns = map_of_outputs(arguments)
    return 0 if out.dim() == 4 else out.shape[1] - rows * columns


def check(arguments: Arguments) -> None:
    """Refuses what cannot be added to the output, which a kernel would read or write beyond its end."""
    pieces, plus, bias, channels = arguments.pieces, arguments.plus, arguments.plus_bias, arguments.kernels.shape[0]
    batch, rows, columns = map_of_outputs(arguments)
    if bias is not None:
        expect(bias.shape == (channels,), lambda: f"plus_bias has shape {tuple(bias.shape)}; expected ({channels},)")
    if plus is None:
        return
    if plus.dim() == 4:
        fits = tuple(plus.shape) == (batch, rows, columns, channels)
    else:
        fits = plus.dim() == 3 and plus.shape[0] == batch and plus.shape[2] == channels
        fits = fits and plus.shape[1] >= rows * columns
    expect(
        fits,
        lambda: (
            f"plus has shape {tuple(plus.shape)}; expected ({batch}, {rows}, {columns}, {channels}), or tokens "
            f"({batch}, at least {rows * columns}, {channels})"
        ),
    )
    for each, other in ((plus.dtype, pieces.dtype), (plus.device, pieces.device)):
        if each != other:
            raise UsageError(f"plus is {each} and pieces are {other}; expected the same")


def multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds forward."""
    through_fc, through_kernels = products(arguments)
    return through_fc + through_kernels


def backward_multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds backward, fc's maps made again among them."""
    through_fc, through_kernels = products(arguments)
    return 3 * through_fc + 2 * through_kernels


def products(arguments: Arguments) -> tuple[int, int]:
    """Multiply-adds of one product with fc, and of one with the kernels."""
    outputs, maps, rows, columns = arguments.kernels.shape
    batch, height, width = map_of_outputs(arguments)
    return arguments.pieces.numel() * maps, batch * height * width * outputs * maps * rows * columns
