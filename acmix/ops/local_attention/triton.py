"""Local attention on a GPU: tiles of queries against the region their neighbourhoods cover, mirrored by index.

With stride s and dilation d, queries whose rows leave the same remainder modulo g = d / gcd(s, d) share neighbours: row
r + g·i sees the rows s·r + d·(s'·i + tap − K // 2), s' = s / gcd(s, d). So in steps of d a tile's region is dense, and
its products fill tensor cores; what a query does not see of the region is masked.

Keys' gradients are made on the map with its mirrored margins, tile by tile from the queries that see them, and the
margins are folded back: nothing is added by atomics.

Shapes
    B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor

from acmix.ops import triton_launch
from acmix.ops.local_attention.spec import Arguments, output
from acmix.ops.triton_launch import Kernels, blocks, images_of, placeholder, power_of_two

KERNELS = Kernels("acmix.ops.local_attention.triton_kernels")
# keys that a tile of queries takes at once, and queries that one of keys does: the fewest that a product takes, since
# every pair of both is in registers several times over
BLOCK = 16


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernels do not take these arguments, or None where they do."""
    return triton_launch.why_not(arguments.qkv)


@dataclass(frozen=True)
class Tiles:
    """A case's sizes, and the tiles that queries or keys of one remainder are taken in."""

    stride: int
    dilation: int
    out_height: int
    out_width: int
    # margins of the mirrored map
    above: int
    left: int
    # g, how many remainders rows and columns of queries leave, and s': steps of queries in steps of keys
    remainders: int
    remainder_rows: int
    remainder_columns: int
    step: int
    # queries and keys of one remainder, at most
    queries: tuple[int, int]
    keys: tuple[int, int]
    tile: tuple[int, int]
    channels_block: int

    @classmethod
    def of(cls, qkv: Tensor, size: tuple[int, int], stride: int, dilation: int) -> Tiles:
        height, width = qkv.shape[1:3]
        out_height, out_width = blocks(height, stride), blocks(width, stride)
        common = gcd(stride, dilation)
        remainders, step = dilation // common, stride // common
        queries = blocks(out_height, remainders), blocks(out_width, remainders)
        channels_block = power_of_two(qkv.shape[5], least=16)
        row_bytes = channels_block * qkv.element_size()
        # what a tile keeps in registers, its rows and their sums, grows with the heads' width
        pixels = 64 if row_bytes <= 64 else 32 if row_bytes <= 128 else 16
        columns = power_of_two(queries[1], most=max(8, pixels // power_of_two(queries[0], most=8)))
        return cls(
            stride=stride,
            dilation=dilation,
            out_height=out_height,
            out_width=out_width,
            above=dilation * (size[0] // 2),
            left=dilation * (size[1] // 2),
            remainders=remainders,
            remainder_rows=min(remainders, out_height),
            remainder_columns=min(remainders, out_width),
            step=step,
            queries=queries,
            keys=(step * (queries[0] - 1) + size[0], step * (queries[1] - 1) + size[1]),
            tile=(pixels // min(columns, pixels), min(columns, pixels)),
            channels_block=channels_block,
        )

    @property
    def reach_all(self) -> bool:
        """Whether every pixel is a query, and every pixel of the mirrored map a key of some."""
        return self.stride == 1 and self.remainders == self.remainder_rows == self.remainder_columns

    def counts(self, sides: tuple[int, int]) -> tuple[int, int, int, int]:
        """Rows and columns of tiles for so many queries or keys of one remainder, and those of remainders."""
        tiles = blocks(sides[0], self.tile[0]), blocks(sides[1], self.tile[1])
        return *tiles, self.remainder_rows, self.remainder_columns


def forward(arguments: Arguments) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    qkv, position, size, stride, dilation, scale = arguments
    batch, heads = qkv.shape[0], qkv.shape[4]
    tiles = Tiles.of(qkv, size, stride, dilation)
    out = output(arguments)
    if not out.numel():
        return out
    counts = tiles.counts(tiles.queries)
    KERNELS.forward[(batch * heads * prod(counts),)](
        *common_arguments(tiles, qkv, position, counts, scale), out,
        **common_settings(tiles, qkv, position, size),
    )  # fmt: skip
    return out


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of position (None where there is none)."""
    qkv, position, size, stride, dilation, scale = arguments
    batch, height, width, _, heads, channels = qkv.shape
    tiles = Tiles.of(qkv, size, stride, dilation)
    # between strides lie pixels that are no query, and margins that no neighbourhood reaches
    make = torch.empty if tiles.reach_all else torch.zeros
    grad_qkv = make(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if not qkv.numel():
        return grad_qkv, None if position is None else torch.zeros_like(position)
    # of every query: the logarithm of its softmax's sum, and the mean of its weights' gradients
    statistics = (batch, heads, tiles.out_height, tiles.out_width)
    log_sums, means = (torch.empty(statistics, dtype=torch.float32, device=qkv.device) for _ in range(2))
    settings = common_settings(tiles, qkv, position, size)

    counts = tiles.counts(tiles.queries)
    common = common_arguments(tiles, qkv, position, counts, scale)
    KERNELS.queries_back[(batch * heads * prod(counts),)](
        *common, grad, *grad.stride(), grad_qkv, log_sums, means, **settings
    )

    margins = (2, batch, height + 2 * tiles.above, width + 2 * tiles.left, heads, channels)
    mirrored = make(margins, dtype=qkv.dtype, device=qkv.device)
    counts = tiles.counts(tiles.keys)
    common = common_arguments(tiles, qkv, position, counts, scale)
    KERNELS.keys_back[(batch * heads * prod(counts),)](
        *common, grad, *grad.stride(), mirrored, batch, log_sums, means, **settings
    )

    images_y, images_x = (
        images_of(side, reach, str(qkv.device)) for side, reach in ((height, tiles.above), (width, tiles.left))
    )
    pixels, row = batch * height * width, heads * channels
    block = power_of_two(row, most=64)
    KERNELS.fold[(blocks(pixels, 32), blocks(row, block), 2)](
        mirrored, grad_qkv, images_y, images_x, pixels, batch, height, width, row, height + 2 * tiles.above,
        width + 2 * tiles.left, IMAGES_Y=images_y.shape[1], IMAGES_X=images_x.shape[1], BLOCK=32, CB=block,
    )  # fmt: skip
    if position is None:
        return grad_qkv, None
    return grad_qkv, -grad_qkv[:, :, :, 1].sum((0, 3), dtype=torch.float32).to(position.dtype)


def common_arguments(
    tiles: Tiles, qkv: Tensor, position: Tensor | None, counts: tuple[int, int, int, int], scale: float
) -> tuple:
    """What every kernel is told first."""
    _, height, width, _, heads, channels = qkv.shape
    if position is None:
        place, steps = placeholder(position, qkv), (0, 0, 0)
    else:
        # as the reference rounds it
        place = position.to(qkv.dtype)
        steps = place.stride()
    sizes = (height, width, tiles.out_height, tiles.out_width, heads, channels, *counts)
    return qkv, place, *qkv.stride(), *steps, *sizes, tiles.stride, tiles.dilation, scale


def common_settings(tiles: Tiles, qkv: Tensor, position: Tensor | None, size: tuple[int, int]) -> dict[str, int | bool]:
    """What every kernel is compiled for."""
    height, width = qkv.shape[1:3]
    return dict(
        KY=size[0],
        KX=size[1],
        REMAINDERS=tiles.remainders,
        STEP=tiles.step,
        HAS_POSITION=position is not None,
        # within one mirroring, which needs no division
        ONCE=tiles.above < height and tiles.left < width,
        TY=tiles.tile[0],
        TX=tiles.tile[1],
        NB=BLOCK,
        BD=tiles.channels_block,
    )
