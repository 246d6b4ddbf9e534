"""The kernels of the convolution path; `triton` says what they are for, and calls them.

Shapes
    H, W map · P pieces of D channels · T maps · M outputs for each of the D · Tp, Mp: T and M rounded up
    BP·BD rows of (pixel, channel) · BLOCK pixels · PB pieces and MB outputs a product takes at once
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import tuned, unroll


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
def fc_forward(
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
def correlate(
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
def correlate_back(
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
def fc_back(
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
        upstream = tl.load(grad_maps + row[:, None] * TP + t[None, :], mask=valid[:, None], other=0.0)  # (rows, Tp)
        both = valid[:, None] & known[None, :]
        source = pieces + image * stride_b + y * stride_h + x * stride_w + channel.to(tl.int64) * stride_d
        piece = tl.load(source[:, None] + p.to(tl.int64)[None, :] * stride_p, mask=both, other=0.0)  # (rows, PB)
        found = tl.dot(upstream, weight, input_precision="ieee")  # (rows, PB)
        pixel = (image * height + y) * width + x
        place = grad_pieces + (pixel[:, None] * pieces_count + p[None, :]) * channels + channel[:, None]
        tl.store(place, found.to(grad_pieces.dtype.element_ty), mask=both)
        part = tl.dot(tl.trans(upstream), piece, part, input_precision="ieee")
        # in two short sums, which round less than one long one
        bias_part += tl.sum(tl.sum(tl.reshape(upstream.to(tl.float32), (BP, BD, TP)), axis=0), axis=0)
    columns = pieces_count + 1
    base = parts + tl.program_id(0).to(tl.int64) * maps_count * columns
    tl.store(base + t[:, None] * columns + p[None, :], part, mask=(t < maps_count)[:, None] & known[None, :])
    if tl.program_id(1) == 0:
        tl.store(base + t * columns + pieces_count, bias_part, mask=t < maps_count)


@tuned("outputs", "TP", "KX")
@triton.jit
def kernels_back(
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
        upstream = tl.load(
            place[:, None] + (channel * outputs + m).to(tl.int64)[None, :] * stride_c,
            mask=(pixel < pixels)[:, None] & (m < outputs)[None, :],
            other=0.0,
        )  # (pixels, MB)
        part = tl.dot(tl.trans(value), upstream, part, input_precision="ieee")
    row = ((chunk * channels + channel).to(tl.int64) * KY + tap_y) * KX + tap_x
    place = parts + (row * maps_count + t)[:, None] * outputs + m[None, :]
    tl.store(place, part, mask=((tap_x < KX) & (t < maps_count))[:, None] & (m < outputs)[None, :])
