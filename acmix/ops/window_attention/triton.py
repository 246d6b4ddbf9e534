"""Window attention on a GPU: rolls, windows, bias and mask are index arithmetic, and no weights reach memory.

Windows of up to 64 pixels take one program for forward and one for backward (`triton_fused`), where heads are narrow
enough and a roll leaves few kinds of windows, as in every Swin (`Windows.of`). All others go block by block: backward
then needs a pass for queries, for keys, for the bias. Every program adds up its own part of the bias's gradient; the
parts are summed in a fixed order.

Shapes
    B batch · H, W map · N heads · D channels a head · wh, ww sides of a window · L = wh·ww · G windows in all images
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acmix.ops import triton_launch
from acmix.ops.triton_launch import Kernels, blocks, placeholder, power_of_two, rolled_by, share
from acmix.ops.window_attention.spec import Arguments, output

KERNELS = Kernels("acmix.ops.window_attention.triton_kernels")
BLOCKS = Kernels("acmix.ops.window_attention.triton_blocks")
FUSED = Kernels("acmix.ops.window_attention.triton_fused")
# of a window in one block, and kinds of windows that tiles are made for: four where a map is shifted by half a window
FUSED_PIXELS, MOST_KINDS = 64, 16


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernels do not take these arguments, or None where they do."""
    return triton_launch.why_not(arguments.qkv)


@dataclass(frozen=True)
class Windows:
    """A case's windows, and the blocks their pixels are taken in."""

    rows: int
    columns: int
    windows: int
    pixels: int
    block: int
    channels_block: int
    fused: bool
    masked: bool
    # of rows and columns of windows: the first that the seam or the border crosses, and how many kinds there are
    first: tuple[int, int]
    kinds: tuple[int, int]

    @classmethod
    def of(cls, qkv: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> Windows:
        batch, height, width, _, _, channels = qkv.shape
        rows, columns = blocks(height, window[0]), blocks(width, window[1])
        pixels = window[0] * window[1]
        channels_block = power_of_two(channels, least=16)
        row_bytes = channels_block * qkv.element_size()
        # without tensor cores (float32) a product keeps both factors in registers, which small blocks alone fit into
        most_bytes, small = (128, 16) if qkv.dtype == torch.float32 else (512, max(16, 16384 // row_bytes))
        first = (height - shift[0]) // window[0], (width - shift[1]) // window[1]
        kinds = 1 + rows - first[0], 1 + columns - first[1]
        fused = pixels <= FUSED_PIXELS and row_bytes <= most_bytes and kinds[0] * kinds[1] <= MOST_KINDS
        return cls(
            rows=rows,
            columns=columns,
            windows=batch * rows * columns,
            pixels=pixels,
            # wide heads take fewer pixels at a time, so that a block's queries, keys and values fit on chip
            block=power_of_two(pixels, least=16, most=64 if fused else min(64, small)),
            channels_block=channels_block,
            fused=fused,
            masked=any(shift) or bool(height % window[0] or width % window[1]),
            first=first,
            kinds=kinds,
        )

    @property
    def blocks(self) -> int:
        """Blocks of a window's pixels."""
        return blocks(self.pixels, self.block)


def forward(arguments: Arguments) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    qkv, bias_table, window, shift, scale = arguments
    heads = qkv.shape[4]
    out = output(arguments)
    if not out.numel():
        return out
    shift = rolled_by(shift, *qkv.shape[1:3])
    case = Windows.of(qkv, window, shift)
    each = min(8, max(1, case.windows * heads // 1024))  # windows a program walks through
    if case.fused:
        FUSED.forward[(heads * blocks(case.windows, each),)](
            *fused_arguments(case, qkv, bias_table, window, shift, scale), out, each,
            WH=window[0], WW=window[1], BLOCK=case.block, BD=case.channels_block,
        )  # fmt: skip
        return out
    KERNELS.forward[(heads * case.blocks * blocks(case.windows, each),)](
        *common_arguments(case, qkv, bias_table, shift, scale), out, each,
        **common_settings(case, window, bias_table),
    )  # fmt: skip
    return out


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of the bias table (None where there is none)."""
    qkv, bias_table, window, shift, scale = arguments
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if not qkv.numel():
        return grad_qkv, None if bias_table is None else torch.zeros_like(bias_table)
    shift = rolled_by(shift, *qkv.shape[1:3])
    case = Windows.of(qkv, window, shift)
    heads = qkv.shape[4]
    pairs = case.blocks**2
    each = share(case.windows, least=1, most=max(1, 1024 // (heads * pairs)))
    programs = blocks(case.windows, each)
    # every program's own part of the bias's gradient
    bias_shape = (programs, heads, case.pixels, case.pixels) if bias_table is not None else (1,)
    parts = torch.empty(bias_shape, dtype=torch.float32, device=qkv.device)
    if case.fused:
        FUSED.backward[(heads * programs,)](
            *fused_arguments(case, qkv, bias_table, window, shift, scale), grad, *grad.stride(), grad_qkv, parts, each,
            WH=window[0], WW=window[1], HAS_BIAS=bias_table is not None, BLOCK=case.block, BD=case.channels_block,
        )  # fmt: skip
    else:
        settings = common_settings(case, window, bias_table)
        # of every query: the logarithm of its softmax's sum, and the mean of its weights' gradients
        log_sums = torch.empty(case.windows, heads, case.pixels, dtype=torch.float32, device=qkv.device)
        common = (*common_arguments(case, qkv, bias_table, shift, scale), grad, *grad.stride(), grad_qkv)
        common = (*common, log_sums, torch.empty_like(log_sums))
        grid = (heads * case.blocks * case.windows,)
        BLOCKS.queries_back[grid](*common, **settings)
        BLOCKS.keys_back[grid](*common, **settings)
        if bias_table is not None:
            BLOCKS.bias_back[(heads * pairs * programs,)](*common, parts, each, **settings)
    if bias_table is None:
        return grad_qkv, None
    return grad_qkv, table_gradient(parts.sum(0), bias_table, window)


def common_arguments(
    case: Windows, qkv: Tensor, bias_table: Tensor | None, shift: tuple[int, int], scale: float
) -> tuple:
    """What every kernel is told first."""
    _, height, width, _, heads, channels = qkv.shape
    table = placeholder(bias_table, qkv)
    sizes = (height, width, heads, channels, case.windows, case.rows * case.columns, case.columns)
    return qkv, table, *qkv.stride(), table.stride(0), table.stride(1), *sizes, *shift, scale


def fused_arguments(
    case: Windows,
    qkv: Tensor,
    bias_table: Tensor | None,
    window: tuple[int, int],
    shift: tuple[int, int],
    scale: float,
) -> tuple:
    """What the kernels for windows in one block are told first; makes the tiles."""
    _, height, width, _, heads, channels = qkv.shape
    kinds = (*case.first, case.kinds[1])
    shape = (case.kinds[0] * case.kinds[1], heads, case.block, case.block)
    tiles = torch.empty(shape, dtype=torch.float32, device=qkv.device)
    table = placeholder(bias_table, qkv)
    FUSED.expand[shape[:2]](
        table, table.stride(0), table.stride(1), tiles, height, width, heads, *shift, *kinds,
        WH=window[0], WW=window[1], HAS_BIAS=bias_table is not None, BLOCK=case.block,
    )  # fmt: skip
    sizes = (height, width, heads, channels, case.windows, case.rows * case.columns, case.columns)
    return qkv, tiles, *qkv.stride(), *sizes, *shift, *kinds, scale


def common_settings(case: Windows, window: tuple[int, int], bias_table: Tensor | None) -> dict[str, int | bool]:
    """What every kernel is compiled for."""
    return dict(
        WH=window[0],
        WW=window[1],
        HAS_BIAS=bias_table is not None,
        MASKED=case.masked,
        BLOCKS=case.blocks,
        BLOCK=case.block,
        BD=case.channels_block,
    )


def table_gradient(grad_bias: Tensor, bias_table: Tensor, window: tuple[int, int]) -> Tensor:
    """Sums the gradients of all pairs of pixels (N, L, L) that read one entry of the table."""
    entries, heads = bias_table.shape
    grad_table = torch.empty(entries, heads, dtype=bias_table.dtype, device=bias_table.device)
    entries_block = 32
    KERNELS.gather_table[(blocks(entries, entries_block), heads)](
        grad_bias, grad_table, entries, heads,
        WH=window[0], WW=window[1], BLOCK=entries_block, LB=power_of_two(window[0] * window[1]),
    )  # fmt: skip
    return grad_table
