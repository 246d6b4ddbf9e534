"""The convolution path on a GPU: fc into maps, maps through the kernels, and both ways back, all on tensor cores.

Maps f lie in memory as (B, D, H, W, Tp) in the dtype of the data, of the map rolled by −shift: one channel's T values
at a pixel are one short row, so every tap of every channel is a product of (pixels × Tp) by (Tp × M). README.md of this
folder weighs this against other ways.

Shapes
    B batch · H, W map · Ho, Wo of the output · P pieces of D channels · T maps · M outputs for each of the D
    Tp, Mp: T and M rounded up to a power of two, 16 at least; what is beyond is zero
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from acmix.ops.triton_common import INTERPRETED, blocks, placeholder, power_of_two, rolled_by, share, tuned, unroll


@dataclass(frozen=True)
class Sizes:
    """A case's sizes, and those of the blocks that follow from them."""

    batch: int
    height: int
    width: int
    pieces: int
    channels: int
    out_height: int
    out_width: int
    maps: int
    taps_y: int
    taps_x: int
    outputs: int
    padded_maps: int
    padded_outputs: int
    # one block of pixels for products with kernels, one of (pixel, channel) for products with fc
    pixels: int
    rows_pixels: int
    rows_channels: int

    @classmethod
    def of(cls, pieces: Tensor, kernels: Tensor, stride: int) -> Sizes:
        batch, height, width, count, channels = pieces.shape
        maps, taps_y, taps_x = kernels.shape[1:]
        outputs = kernels.shape[0] // channels
        rows_channels = power_of_two(channels, most=16 if INTERPRETED else 32)
        return cls(
            batch=batch,
            height=height,
            width=width,
            pieces=count,
            channels=channels,
            out_height=blocks(height, stride),
            out_width=blocks(width, stride),
            maps=maps,
            taps_y=taps_y,
            taps_x=taps_x,
            outputs=outputs,
            padded_maps=power_of_two(maps, least=16),
            padded_outputs=power_of_two(outputs, least=16),
            pixels=128,
            rows_pixels=(256 if INTERPRETED else 128) // rows_channels,
            rows_channels=rows_channels,
        )

    @property
    def output_block(self) -> int:
        """How many of the M outputs a product takes at once."""
        return min(self.padded_outputs, 64)

    @property
    def piece_block(self) -> int:
        """How many of the P pieces a product takes at once."""
        return power_of_two(self.pieces, least=16, most=64)

    @property
    def row_blocks(self) -> int:
        """Blocks of (pixel, channel) in the map."""
        return blocks(self.batch * self.height * self.width, self.rows_pixels) * self.channel_blocks

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels."""
        return blocks(self.channels, self.rows_channels)


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    size = Sizes.of(pieces, kernels, stride)
    out = pieces.new_empty(size.batch, size.out_height, size.out_width, kernels.shape[0])
    if not out.numel():
        return out
    shift = rolled_by(shift, size.height, size.width)
    maps = make_maps(size, pieces, fc_weight, fc_bias, shift)  # (B, D, H, W, Tp)
    pixels = size.batch * size.out_height * size.out_width
    grid = (size.channels * blocks(pixels, size.pixels), blocks(size.outputs, size.output_block))
    _correlate[grid](
        maps, packed(size, kernels, pieces.dtype), out, pixels, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, stride, dilation, *shift,
        KY=size.taps_y, KX=size.taps_x, BLOCK=size.pixels, TP=size.padded_maps, MP=size.padded_outputs,
        MB=size.output_block,
    )  # fmt: skip
    return out


def conv_path_backward(
    grad: Tensor,
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (empty where there is none) and kernels."""
    size = Sizes.of(pieces, kernels, stride)
    grad_pieces = torch.empty(pieces.shape, dtype=pieces.dtype, device=pieces.device)
    if not pieces.numel():
        no_bias = fc_weight.new_zeros(0) if fc_bias is None else torch.zeros_like(fc_bias)
        return grad_pieces, torch.zeros_like(fc_weight), no_bias, kernels.new_zeros(kernels.shape)
    shift = rolled_by(shift, size.height, size.width)
    maps = make_maps(size, pieces, fc_weight, fc_bias, shift)  # (B, D, H, W, Tp)
    grad_kernels = kernels_gradient(size, grad, maps, stride, dilation, shift)  # (M·D, T, ky, kx)

    grad_maps = torch.empty_like(maps)  # (B, D, H, W, Tp)
    pixels = size.batch * size.height * size.width
    _correlate_back[(size.channels * blocks(pixels, size.pixels),)](
        grad, packed(size, kernels, pieces.dtype), grad_maps, pixels, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, dilation, *shift, *grad.stride(),
        STRIDE=stride, KY=size.taps_y, KX=size.taps_x, BLOCK=size.pixels, TP=size.padded_maps,
        MP=size.padded_outputs, MB=size.output_block,
    )  # fmt: skip

    each = share(size.row_blocks, least=4)
    programs = blocks(size.row_blocks, each)
    # every program's own part of fc's gradient; its last column is the bias
    parts = torch.empty(programs, size.maps, size.pieces + 1, dtype=torch.float32, device=pieces.device)
    _fc_back[(programs, blocks(size.pieces, size.piece_block))](
        grad_maps, pieces, fc_weight, grad_pieces, parts, pixels, size.height, size.width, size.channels, size.pieces,
        size.maps, *shift, *pieces.stride(), *fc_weight.stride(), each,
        BP=size.rows_pixels, BD=size.rows_channels, DB=size.channel_blocks, PB=size.piece_block, TP=size.padded_maps,
    )  # fmt: skip
    grad_fc = parts.sum(0)  # (T, P + 1)
    return (
        grad_pieces,
        grad_fc[:, :-1].to(fc_weight.dtype, memory_format=torch.contiguous_format, copy=True),
        fc_weight.new_empty(0) if fc_bias is None else grad_fc[:, -1].to(fc_bias.dtype, copy=True),
        grad_kernels.to(kernels.dtype),
    )


def make_maps(size: Sizes, pieces: Tensor, fc_weight: Tensor, fc_bias: Tensor | None, shift: tuple[int, int]) -> Tensor:
    """f, the maps that fc makes of the pieces: (B, D, H, W, Tp)."""
    maps = pieces.new_empty(size.batch, size.channels, size.height, size.width, size.padded_maps)
    bias = placeholder(fc_bias, fc_weight)
    _fc[(size.row_blocks,)](
        pieces, fc_weight, bias, maps, size.batch * size.height * size.width, size.height, size.width, size.channels,
        size.pieces, size.maps, *shift, *pieces.stride(), *fc_weight.stride(), bias.stride(0),
        HAS_BIAS=fc_bias is not None, BP=size.rows_pixels, BD=size.rows_channels, DB=size.channel_blocks,
        PB=min(size.piece_block, 32), TP=size.padded_maps,
    )  # fmt: skip
    return maps


def packed(size: Sizes, kernels: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernels as each tap's matrix for each channel, zero beyond T and M: (D, ky·kx, Tp, Mp)."""
    taps = size.taps_y * size.taps_x
    shape = (size.channels, taps, size.padded_maps, size.padded_outputs)
    matrices = torch.zeros(shape, dtype=dtype, device=kernels.device)
    by_channel = kernels.reshape(size.channels, size.outputs, size.maps, taps)
    matrices[:, :, : size.maps, : size.outputs] = by_channel.permute(0, 3, 2, 1)
    return matrices


def kernels_gradient(
    size: Sizes, grad: Tensor, maps: Tensor, stride: int, dilation: int, shift: tuple[int, int]
) -> Tensor:
    """The gradient of the kernels, (M·D, T, ky, kx) in float32: programs' own parts, then their sum."""
    # several taps of a kernel's row side by side make one tall product
    together = min(power_of_two(size.taps_x), max(1, 128 // size.padded_maps))
    block = 64
    pixel_blocks = blocks(size.batch * size.out_height * size.out_width, block)
    # every channel and row of taps has programs of its own, so few parts of the pixels are enough
    each = share(pixel_blocks, least=4, most=max(1, 2048 // (size.channels * size.taps_y)))
    programs = blocks(pixel_blocks, each)
    shape = (programs, size.channels, size.taps_y, size.taps_x, size.maps, size.outputs)
    parts = torch.empty(shape, dtype=torch.float32, device=grad.device)
    grid = (
        size.channels * programs,
        size.taps_y * blocks(size.taps_x, together),
        blocks(size.outputs, size.output_block),
    )
    _kernels_back[grid](
        grad, maps, parts, size.batch * size.out_height * size.out_width, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, size.maps, stride, dilation, *shift, *grad.stride(), each,
        KY=size.taps_y, KX=size.taps_x, TG=together, BLOCK=block, TP=size.padded_maps, MB=size.output_block,
    )  # fmt: skip
    summed = parts.sum(0)  # (D, ky, kx, T, M)
    return summed.permute(0, 4, 3, 1, 2).reshape(-1, size.maps, size.taps_y, size.taps_x)


# --- kernels --------------------------------------------------------------------------------------------------------


@triton.jit
def _rows(
    block, pixels, height, width, channels, shift_y, shift_x, BP: tl.constexpr, BD: tl.constexpr, DB: tl.constexpr
):
    """A block of (pixel, channel) rows: image, row and column in the map, offset in the rolled map, channel, valid."""
    row = tl.arange(0, BP * BD)
    pixel = (block // DB) * BP + row // BD
    channel = (block % DB) * BD + row % BD
    image = pixel // (height * width)
    offset = pixel % (height * width)
    y = unroll(offset // width, shift_y, height)
    x = unroll(offset % width, shift_x, width)
    return image.to(tl.int64), y.to(tl.int64), x.to(tl.int64), offset, channel, (pixel < pixels) & (channel < channels)


@tuned("pieces_count", "TP", "BD")
@triton.jit
def _fc(
    pieces, fc, bias, maps, pixels, height, width, channels, pieces_count, maps_count, shift_y, shift_x,
    stride_b, stride_h, stride_w, stride_p, stride_d, fc_t, fc_p, bias_t,
    HAS_BIAS: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr, DB: tl.constexpr, PB: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """maps[image, channel, pixel, :] = fc · pieces[image, pixel, :, channel] + bias."""
    block = tl.program_id(0)
    image, y, x, offset, channel, valid = _rows(block, pixels, height, width, channels, shift_y, shift_x, BP, BD, DB)
    source = pieces + image * stride_b + y * stride_h + x * stride_w + channel.to(tl.int64) * stride_d
    t = tl.arange(0, TP)
    found = tl.zeros((BP * BD, TP), dtype=tl.float32)
    for first in range(0, pieces_count, PB):
        p = first + tl.arange(0, PB)
        known = p < pieces_count
        piece = tl.load(
            source[:, None] + p.to(tl.int64)[None, :] * stride_p, mask=valid[:, None] & known[None, :], other=0.0
        )  # (rows, PB)
        weight = tl.load(
            fc + p[:, None] * fc_p + t[None, :] * fc_t, mask=known[:, None] & (t < maps_count)[None, :], other=0.0
        )  # (PB, Tp)
        found = tl.dot(piece, weight.to(piece.dtype), found, input_precision="ieee")
    if HAS_BIAS:
        found += tl.load(bias + t * bias_t, mask=t < maps_count, other=0.0).to(tl.float32)[None, :]
    row = (image * channels + channel) * (height * width) + offset
    tl.store(maps + row[:, None] * TP + t[None, :], found.to(maps.dtype.element_ty), mask=valid[:, None])


@tuned("outputs", "TP", "KX", stages=(2, 3))
@triton.jit
def _correlate(
    maps, matrices, out, pixels, height, width, out_height, out_width, channels, outputs, stride, dilation,
    shift_y, shift_x,
    KY: tl.constexpr, KX: tl.constexpr, BLOCK: tl.constexpr, TP: tl.constexpr, MP: tl.constexpr, MB: tl.constexpr,
):  # fmt: skip
    """out[pixel, channel·M + m] = Σ_tap maps[channel, pixel + tap, :] · matrices[channel, tap, :, m]."""
    channel = tl.program_id(0) % channels
    pixel = (tl.program_id(0) // channels) * BLOCK + tl.arange(0, BLOCK)
    m = tl.program_id(1) * MB + tl.arange(0, MB)
    t = tl.arange(0, TP)
    image = (pixel // (out_height * out_width)).to(tl.int64)
    y = (pixel // out_width) % out_height
    x = pixel % out_width
    plane = (image * channels + channel) * (height * width)
    found = tl.zeros((BLOCK, MB), dtype=tl.float32)
    for tap in range(KY * KX):
        from_y = y * stride + (tap // KX - KY // 2) * dilation
        from_x = x * stride + (tap % KX - KX // 2) * dilation
        inside = (pixel < pixels) & (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
        row = plane + from_y * width + from_x
        value = tl.load(maps + row[:, None] * TP + t[None, :], mask=inside[:, None], other=0.0)  # (pixels, Tp)
        matrix = tl.load(
            matrices + ((channel * (KY * KX) + tap) * TP + t)[:, None] * MP + m[None, :]
        )  # (Tp, MB): zero beyond T and M, so it needs no mask
        found = tl.dot(value, matrix, found, input_precision="ieee")
    to_y = unroll(y, shift_y, out_height).to(tl.int64)
    to_x = unroll(x, shift_x, out_width)
    row = (image * out_height + to_y) * out_width + to_x
    place = out + row[:, None] * (channels * outputs) + channel * outputs + m[None, :]
    tl.store(place, found.to(out.dtype.element_ty), mask=(pixel < pixels)[:, None] & (m < outputs)[None, :])


@tuned("outputs", "TP", "KX", stages=(2, 3))
@triton.jit
def _correlate_back(
    grad, matrices, grad_maps, pixels, height, width, out_height, out_width, channels, outputs, dilation,
    shift_y, shift_x, stride_b, stride_h, stride_w, stride_c,
    STRIDE: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr, BLOCK: tl.constexpr, TP: tl.constexpr,
    MP: tl.constexpr, MB: tl.constexpr,
):  # fmt: skip
    """grad_maps[channel, pixel, :] = Σ_tap matrices[channel, tap] · grad[pixel − tap, channel·M …]."""
    channel = tl.program_id(0) % channels
    pixel = (tl.program_id(0) // channels) * BLOCK + tl.arange(0, BLOCK)
    t = tl.arange(0, TP)
    image = (pixel // (height * width)).to(tl.int64)
    y = (pixel // width) % height
    x = pixel % width
    found = tl.zeros((BLOCK, TP), dtype=tl.float32)
    for tap in range(KY * KX):
        down = y - (tap // KX - KY // 2) * dilation
        right = x - (tap % KX - KX // 2) * dilation
        out_y = down // STRIDE
        out_x = right // STRIDE
        inside = (pixel < pixels) & (down >= 0) & (right >= 0) & (out_y < out_height) & (out_x < out_width)
        inside = inside & (down % STRIDE == 0) & (right % STRIDE == 0)
        from_y = unroll(out_y, shift_y, out_height).to(tl.int64)
        from_x = unroll(out_x, shift_x, out_width).to(tl.int64)
        row = grad + image * stride_b + from_y * stride_h + from_x * stride_w
        for first in range(0, MP, MB):
            m = first + tl.arange(0, MB)
            column = (channel * outputs + m).to(tl.int64) * stride_c
            value = tl.load(
                row[:, None] + column[None, :], mask=inside[:, None] & (m < outputs)[None, :], other=0.0
            )  # (pixels, MB)
            matrix = tl.load(matrices + ((channel * (KY * KX) + tap) * TP + t)[None, :] * MP + m[:, None])  # (MB, Tp)
            found = tl.dot(value, matrix, found, input_precision="ieee")
    row = (image * channels + channel) * (height * width) + y * width + x
    place = grad_maps + row[:, None] * TP + t[None, :]
    tl.store(place, found.to(grad_maps.dtype.element_ty), mask=(pixel < pixels)[:, None])


@tuned("pieces_count", "TP", "BD")
@triton.jit
def _fc_back(
    grad_maps, pieces, fc, grad_pieces, parts, pixels, height, width, channels, pieces_count, maps_count,
    shift_y, shift_x, stride_b, stride_h, stride_w, stride_p, stride_d, fc_t, fc_p, each,
    BP: tl.constexpr, BD: tl.constexpr, DB: tl.constexpr, PB: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """grad_pieces = fcᵀ · grad_maps, and this program's part of fc's gradient, grad_maps · piecesᵀ."""
    p = tl.program_id(1) * PB + tl.arange(0, PB)
    t = tl.arange(0, TP)
    known = p < pieces_count
    weight = tl.load(
        fc + t[:, None] * fc_t + p[None, :] * fc_p, mask=(t < maps_count)[:, None] & known[None, :], other=0.0
    ).to(grad_maps.dtype.element_ty)  # (Tp, PB)
    part = tl.zeros((TP, PB), dtype=tl.float32)
    bias_part = tl.zeros((TP,), dtype=tl.float32)
    for i in range(each):
        block = tl.program_id(0) * each + i
        image, y, x, offset, channel, valid = _rows(
            block, pixels, height, width, channels, shift_y, shift_x, BP, BD, DB
        )
        row = (image * channels + channel) * (height * width) + offset
        slope = tl.load(grad_maps + row[:, None] * TP + t[None, :], mask=valid[:, None], other=0.0)  # (rows, Tp)
        both = valid[:, None] & known[None, :]
        source = pieces + image * stride_b + y * stride_h + x * stride_w + channel.to(tl.int64) * stride_d
        piece = tl.load(source[:, None] + p.to(tl.int64)[None, :] * stride_p, mask=both, other=0.0)  # (rows, PB)
        found = tl.dot(slope, weight, input_precision="ieee")  # (rows, PB)
        pixel = (image * height + y) * width + x
        place = grad_pieces + (pixel[:, None] * pieces_count + p[None, :]) * channels + channel[:, None]
        tl.store(place, found.to(grad_pieces.dtype.element_ty), mask=both)
        part = tl.dot(tl.trans(slope), piece, part, input_precision="ieee")
        # in two short sums, which round less than one long one
        bias_part += tl.sum(tl.sum(tl.reshape(slope.to(tl.float32), (BP, BD, TP)), axis=0), axis=0)
    columns = pieces_count + 1
    base = parts + tl.program_id(0).to(tl.int64) * maps_count * columns
    tl.store(base + t[:, None] * columns + p[None, :], part, mask=(t < maps_count)[:, None] & known[None, :])
    if tl.program_id(1) == 0:
        tl.store(base + t * columns + pieces_count, bias_part, mask=t < maps_count)


@tuned("outputs", "TP", "KX")
@triton.jit
def _kernels_back(
    grad, maps, parts, pixels, height, width, out_height, out_width, channels, outputs, maps_count, stride, dilation,
    shift_y, shift_x, stride_b, stride_h, stride_w, stride_c, each,
    KY: tl.constexpr, KX: tl.constexpr, TG: tl.constexpr, BLOCK: tl.constexpr, TP: tl.constexpr, MB: tl.constexpr,
):  # fmt: skip
    """This program's part of the kernels' gradient: maps[channel, pixel + tap, t] · grad[pixel, channel·M + m]."""
    groups: tl.constexpr = (KX + TG - 1) // TG
    channel = tl.program_id(0) % channels
    chunk = tl.program_id(0) // channels
    tap_y = tl.program_id(1) // groups
    column = tl.arange(0, TG * TP)
    tap_x = (tl.program_id(1) % groups) * TG + column // TP
    t = column % TP
    m = tl.program_id(2) * MB + tl.arange(0, MB)
    part = tl.zeros((TG * TP, MB), dtype=tl.float32)
    for i in range(each):
        pixel = (chunk * each + i) * BLOCK + tl.arange(0, BLOCK)
        image = (pixel // (out_height * out_width)).to(tl.int64)
        y = (pixel // out_width) % out_height
        x = pixel % out_width
        from_y = y * stride + (tap_y - KY // 2) * dilation
        from_x = (x * stride)[:, None] + ((tap_x - KX // 2) * dilation)[None, :]  # (pixels, TG·Tp)
        row = (image * channels + channel) * (height * width) + from_y * width
        inside = ((pixel < pixels) & (from_y >= 0) & (from_y < height))[:, None] & (tap_x < KX)[None, :]
        inside = inside & (from_x >= 0) & (from_x < width)
        value = tl.load(maps + (row[:, None] + from_x) * TP + t[None, :], mask=inside, other=0.0)
        to_y = unroll(y, shift_y, out_height).to(tl.int64)
        to_x = unroll(x, shift_x, out_width).to(tl.int64)
        place = grad + image * stride_b + to_y * stride_h + to_x * stride_w
        slope = tl.load(
            place[:, None] + (channel * outputs + m).to(tl.int64)[None, :] * stride_c,
            mask=(pixel < pixels)[:, None] & (m < outputs)[None, :],
            other=0.0,
        )  # (pixels, MB)
        part = tl.dot(tl.trans(value), slope, part, input_precision="ieee")
    row = ((chunk * channels + channel).to(tl.int64) * KY + tap_y) * KX + tap_x
    place = parts + (row * maps_count + t)[:, None] * outputs + m[None, :]
    tl.store(place, part, mask=((tap_x < KX) & (t < maps_count))[:, None] & (m < outputs)[None, :])
