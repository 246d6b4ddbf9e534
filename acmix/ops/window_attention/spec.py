"""What window attention takes, what comes of it, and what that costs.

Shapes: see `acmix.ops.window_attention`
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# the CPU kernel's tables of a window's pixels hold so many
MOST_WINDOW_PIXELS = 1024


class Arguments(NamedTuple):
    """The arguments of every implementation, in this order."""

    qkv: Tensor  # (B, H, W, 3, N, D)
    bias_table: Tensor | None  # ((2·wh − 1)·(2·ww − 1), N)
    window: tuple[int, int]
    shift: tuple[int, int]
    scale: float


# the arguments whose dimension 0 counts images; all images share the others
MAPS = ("qkv",)


def output(arguments: Arguments) -> Tensor:
    """An unwritten output: (B, H, W, C)."""
    batch, height, width, _, heads, channels = arguments.qkv.shape
    return arguments.qkv.new_empty(batch, height, width, heads * channels)


def multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds forward: queries times keys, weights times values."""
    return 2 * products_of_windows(arguments)


def backward_multiply_adds(arguments: Arguments, out: Tensor) -> int:
    """Multiply-adds backward, the weights made again among them."""
    return 5 * products_of_windows(arguments)


def products_of_windows(arguments: Arguments) -> int:
    """Multiply-adds of one of attention's products: every (query, key) pair of a window, in every channel."""
    batch, height, width, _, heads, channels = arguments.qkv.shape
    rows, columns = arguments.window
    windows = batch * -(-height // rows) * -(-width // columns)
    return windows * (rows * columns) ** 2 * heads * channels
