"""The kernels of the convolution path; `triton` says what they are for, and calls them.

Shapes
    H, W map · P pieces of D channels · T maps · M outputs for each of the D · a tap of a kernel: KY rows, KX columns
    BP pixels and BD channels a program takes · Tp: T rounded up · MB, PB: outputs and pieces a product takes at once

What stands for all taps at once has one dimension for (tap, piece) or (tap, output), packed without gaps, of which a
product takes KB at a time: with 3 heads, 9 taps of 3 outputs are 27 columns, not 9 times 16.
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import tuned, unroll


@triton.jit
def fold(
    fc, fc_t, fc_p, bias, bias_t, kernels, folded, pieces_count, maps_count, outputs,
    HAS_BIAS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr, PB: tl.constexpr, TP: tl.constexpr,
    MP: tl.constexpr,
):  # fmt: skip
    """folded[d, tap·COLUMNS + p, m] = Σ_t fc[t, p] · kernels[d·M + m, t, tap]; fc's bias is one more piece.

    One channel and one tap a program; COLUMNS: pieces, and the bias where there is one.
    """
    d = tl.program_id(0).to(tl.int64)
    tap = tl.program_id(1)
    p = tl.program_id(2) * PB + tl.arange(0, PB)
    t = tl.arange(0, TP)
    m = tl.arange(0, MP)
    known = (t < maps_count)[:, None]
    weight = tl.load(
        fc + t[:, None] * fc_t + p[None, :] * fc_p, mask=known & (p < pieces_count)[None, :], other=0.0
    ).to(tl.float32)  # (Tp, PB)
    if HAS_BIAS:
        last = tl.load(bias + t * bias_t, mask=t < maps_count, other=0.0).to(tl.float32)
        weight = tl.where((p == pieces_count)[None, :], last[:, None], weight)
    place = ((d * outputs + m)[None, :] * maps_count + t[:, None]) * TAPS + tap
    kernel = tl.load(kernels + place, mask=known & (m < outputs)[None, :], other=0.0).to(tl.float32)  # (Tp, Mp)
    found = tl.dot(tl.trans(weight), kernel, input_precision="ieee")  # (PB, Mp)
    row = (d * TAPS + tap) * COLUMNS + p
    tl.store(folded + row[:, None] * MP + m[None, :], found.to(folded.dtype.element_ty), mask=(p < COLUMNS)[:, None])


@triton.jit
def _pixels(block, pixels, height, width, BP: tl.constexpr):
    """A block of pixels of a map: image (int64), row, column, and which exist; (BP,) each."""
    pixel = block * BP + tl.arange(0, BP)
    image = (pixel // (height * width)).to(tl.int64)
    offset = pixel % (height * width)
    return image, offset // width, offset % width, pixel < pixels


@triton.jit
def _index(place, WIDE: tl.constexpr):
    """A row, column or channel as a factor of a step in memory; 64 bits take twice the registers."""
    if WIDE:
        return place.to(tl.int64)
    else:
        return place


@tuned("outputs", "COLUMNS", "TAPS", choices=((8, 1), (4, 1), (4, 2)), float32=(8, 1))
@triton.jit
def forward(
    pieces, folded, plus, plus_bias, out, pixels, height, width, out_height, out_width, channels, pieces_count, outputs,
    stride, dilation, shift_y, shift_x, tokens, stride_b, stride_h, stride_w, stride_p, stride_d, stride_bias,
    HAS_BIAS: tl.constexpr, HAS_PLUS: tl.constexpr, HAS_PLUS_BIAS: tl.constexpr, WIDE: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, TAPS: tl.constexpr,
    COLUMNS: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr, KB: tl.constexpr, MP: tl.constexpr, MB: tl.constexpr,
):  # fmt: skip
    """out[pixel, d·M + m] = Σ_(tap, p) pieces[pixel + tap, p, d] · folded[d, (tap, p), m], and what is added."""
    blocks_d = tl.cdiv(channels, BD)
    d = (tl.program_id(0) % blocks_d) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * MB + tl.arange(0, MB)
    image, y, x, valid = _pixels(tl.program_id(0) // blocks_d, pixels, out_height, out_width, BP)
    base = pieces + image * stride_b
    step = _index(d, WIDE) * stride_d
    found = tl.zeros((BD, BP, MB), dtype=tl.float32)
    for first in range(0, TAPS * COLUMNS, KB):
        k = first + tl.arange(0, KB)
        tap = k // COLUMNS
        p = k % COLUMNS
        from_y = (y * stride)[:, None] + ((tap // KX - KY // 2) * dilation)[None, :]
        from_x = (x * stride)[:, None] + ((tap % KX - KX // 2) * dilation)[None, :]
        inside = valid[:, None] & (k < TAPS * COLUMNS)[None, :]
        inside = inside & (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)  # (BP, KB)
        row = _index(unroll(from_y, shift_y, height), WIDE) * stride_h
        row += _index(unroll(from_x, shift_x, width), WIDE) * stride_w + _index(p, WIDE)[None, :] * stride_p
        known = inside & (p < pieces_count)[None, :]
        value = tl.load(
            base[:, None, None] + (row[:, :, None] + step[None, None, :]),
            mask=known[:, :, None] & (d < channels)[None, None, :],
            other=0.0,
        )  # (BP, KB, BD)
        if HAS_BIAS:
            value = tl.where((inside & (p == pieces_count)[None, :])[:, :, None], 1.0, value).to(value.dtype)
        weight = tl.load(
            folded + (d.to(tl.int64)[:, None] * (TAPS * COLUMNS) + k[None, :])[:, :, None] * MP + m[None, None, :],
            mask=((d < channels)[:, None] & (k < TAPS * COLUMNS)[None, :])[:, :, None],
            other=0.0,
        )  # (BD, KB, MB)
        found = tl.dot(tl.permute(value, (2, 0, 1)), weight, found, input_precision="ieee")
    to_y = unroll(y, shift_y, out_height).to(tl.int64)
    to_x = unroll(x, shift_x, out_width)
    row = image * (tokens + out_height * out_width) + tokens + to_y * out_width + to_x
    channel = (d * outputs)[:, None, None] + m[None, None, :]
    place = (row * (channels * outputs))[None, :, None] + channel
    mask = ((d < channels)[:, None] & valid[None, :])[:, :, None] & (m < outputs)[None, None, :]
    if HAS_PLUS_BIAS:
        there = (d < channels)[:, None, None] & (m < outputs)[None, None, :]
        found += tl.load(plus_bias + channel * stride_bias, mask=there, other=0.0)
    if HAS_PLUS:
        found += tl.load(plus + place, mask=mask, other=0.0)
    tl.store(out + place, found.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _upstream(
    grad, image, y, x, valid, d, first, out_height, out_width, channels, outputs, dilation, shift_y, shift_x,
    stride_b, stride_h, stride_w, stride_c,
    WIDE: tl.constexpr, STRIDE: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr, OUTPUTS: tl.constexpr,
    KB: tl.constexpr,
):  # fmt: skip
    """The output's gradient at a block of pixels less each tap, (BP, KB, BD); columns (tap, m) from one on."""
    k = first + tl.arange(0, KB)
    tap = k // OUTPUTS
    m = k % OUTPUTS
    down = y[:, None] - ((tap // KX - KY // 2) * dilation)[None, :]
    right = x[:, None] - ((tap % KX - KX // 2) * dilation)[None, :]
    out_y = down // STRIDE
    out_x = right // STRIDE
    inside = valid[:, None] & (k < KY * KX * OUTPUTS)[None, :] & (down >= 0) & (right >= 0)
    inside = inside & (out_y < out_height) & (out_x < out_width) & (down % STRIDE == 0) & (right % STRIDE == 0)
    row = _index(unroll(out_y, shift_y, out_height), WIDE) * stride_h
    row += _index(unroll(out_x, shift_x, out_width), WIDE) * stride_w + _index(m, WIDE)[None, :] * stride_c
    column = _index(d * outputs, WIDE) * stride_c
    base = grad + image * stride_b
    mask = inside[:, :, None] & (d < channels)[None, None, :]
    return tl.load(base[:, None, None] + (row[:, :, None] + column[None, None, :]), mask=mask, other=0.0)


@tuned("pieces_count", "OUTPUTS", "KX", choices=((8, 1), (8, 2)), float32=(8, 1))
@triton.jit
def pieces_back(
    grad, matrices, pieces, fc, grad_pieces, parts, pixels, height, width, out_height, out_width, channels,
    pieces_count, maps_count, outputs, dilation, shift_y, shift_x,
    stride_b, stride_h, stride_w, stride_p, stride_d, grad_b, grad_h, grad_w, grad_c, fc_t, fc_p, each,
    WIDE: tl.constexpr, STRIDE: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr, OUTPUTS: tl.constexpr,
    BP: tl.constexpr, BD: tl.constexpr, KB: tl.constexpr, PB: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """The maps' gradient, which stays on the chip; from it that of the pieces, and this program's part of fc's."""
    blocks_d = tl.cdiv(channels, BD)
    p = tl.program_id(1) * PB + tl.arange(0, PB)
    t = tl.arange(0, TP)
    known = p < pieces_count
    weight = tl.load(
        fc + t[:, None] * fc_t + p[None, :] * fc_p, mask=(t < maps_count)[:, None] & known[None, :], other=0.0
    ).to(grad_pieces.dtype.element_ty)  # (Tp, PB)
    part = tl.zeros((TP, PB), dtype=tl.float32)
    bias_part = tl.zeros((TP,), dtype=tl.float32)
    for i in range(each):
        block = tl.program_id(0) * each + i
        d = (block % blocks_d) * BD + tl.arange(0, BD)
        image, y, x, valid = _pixels(block // blocks_d, pixels, height, width, BP)
        found = tl.zeros((BD, BP, TP), dtype=tl.float32)
        for first in range(0, KY * KX * OUTPUTS, KB):
            upstream = _upstream(
                grad, image, y, x, valid, d, first, out_height, out_width, channels, outputs, dilation, shift_y,
                shift_x, grad_b, grad_h, grad_w, grad_c, WIDE, STRIDE, KY, KX, OUTPUTS, KB,
            )  # fmt: skip
            k = first + tl.arange(0, KB)
            row = d.to(tl.int64)[:, None] * (KY * KX * OUTPUTS) + k[None, :]
            matrix = tl.load(
                matrices + row[:, :, None] * TP + t[None, None, :],
                mask=((d < channels)[:, None] & (k < KY * KX * OUTPUTS)[None, :])[:, :, None],
                other=0.0,
            )  # (BD, KB, Tp)
            found = tl.dot(tl.permute(upstream, (2, 0, 1)).to(matrix.dtype), matrix, found, input_precision="ieee")
        maps = tl.reshape(tl.permute(found, (1, 0, 2)), (BP * BD, TP))  # of rows (pixel, channel)
        # in two short sums, which round less than one long one
        bias_part += tl.sum(tl.sum(found, axis=0), axis=0)
        small = maps.to(weight.dtype)
        from_y = unroll(y, shift_y, height)
        from_x = unroll(x, shift_x, width)
        both = (valid[:, None] & (d < channels)[None, :])[:, :, None] & known[None, None, :]
        row = _index(from_y, WIDE) * stride_h + _index(from_x, WIDE) * stride_w
        row = row[:, None] + _index(d, WIDE)[None, :] * stride_d  # (BP, BD)
        place = row[:, :, None] + _index(p, WIDE)[None, None, :] * stride_p
        piece = tl.load((pieces + image * stride_b)[:, None, None] + place, mask=both, other=0.0)
        piece = tl.reshape(piece, (BP * BD, PB))
        part = tl.dot(tl.trans(small), piece, part, input_precision="ieee")
        grad_piece = tl.reshape(tl.dot(small, weight, input_precision="ieee"), (BP, BD, PB))
        pixel = (image * height + from_y) * width + from_x
        target = (grad_pieces + pixel * (pieces_count * channels))[:, None, None]
        place = p[None, None, :] * channels + d[None, :, None]
        tl.store(target + place, grad_piece.to(grad_pieces.dtype.element_ty), mask=both)
    columns = pieces_count + 1
    base = parts + tl.program_id(0).to(tl.int64) * maps_count * columns
    tl.store(base + t[:, None] * columns + p[None, :], part, mask=(t < maps_count)[:, None] & known[None, :])
    if tl.program_id(1) == 0:
        tl.store(base + t * columns + pieces_count, bias_part, mask=t < maps_count)


@tuned("pieces_count", "OUTPUTS", "KX", choices=((8, 1), (8, 2), (4, 1), (4, 2)), float32=(8, 1))
@triton.jit
def kernels_back(
    grad, pieces, fc, bias, parts, pixels, height, width, out_height, out_width, channels, pieces_count, maps_count,
    outputs, dilation, shift_y, shift_x,
    stride_b, stride_h, stride_w, stride_p, stride_d, grad_b, grad_h, grad_w, grad_c, fc_t, fc_p, bias_t, each,
    HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, STRIDE: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    OUTPUTS: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr, KB: tl.constexpr, PB: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """This program's part of the kernels' gradient: maps[pixel, d, t] · grad[pixel − tap, d·M + m], maps made here."""
    blocks_d = tl.cdiv(channels, BD)
    d = (tl.program_id(0) % blocks_d) * BD + tl.arange(0, BD)
    chunk = tl.program_id(0) // blocks_d
    first = tl.program_id(1) * KB
    t = tl.arange(0, TP)
    part = tl.zeros((BD, TP, KB), dtype=tl.float32)
    for i in range(each):
        image, y, x, valid = _pixels(chunk * each + i, pixels, height, width, BP)
        rows = tl.reshape(valid[:, None] & (d < channels)[None, :], (BP * BD,))
        row = _index(unroll(y, shift_y, height), WIDE) * stride_h + _index(unroll(x, shift_x, width), WIDE) * stride_w
        row = tl.reshape(row[:, None] + _index(d, WIDE)[None, :] * stride_d, (BP * BD,))
        base = tl.reshape(tl.broadcast_to((pieces + image * stride_b)[:, None], (BP, BD)), (BP * BD,))
        maps = tl.zeros((BP * BD, TP), dtype=tl.float32)
        for first_p in range(0, pieces_count, PB):
            p = first_p + tl.arange(0, PB)
            known = (p < pieces_count)[None, :]
            piece = tl.load(
                base[:, None] + (row[:, None] + _index(p, WIDE)[None, :] * stride_p),
                mask=rows[:, None] & known,
                other=0.0,
            )  # (rows, PB)
            weight = tl.load(
                fc + p[:, None] * fc_p + t[None, :] * fc_t,
                mask=(p < pieces_count)[:, None] & (t < maps_count)[None, :],
                other=0.0,
            )  # (PB, Tp)
            maps = tl.dot(piece, weight.to(piece.dtype), maps, input_precision="ieee")
        if HAS_BIAS:
            maps += tl.load(bias + t * bias_t, mask=t < maps_count, other=0.0).to(tl.float32)[None, :]
        maps = tl.where(rows[:, None], maps, 0.0)
        small = tl.permute(tl.reshape(maps, (BP, BD, TP)), (1, 2, 0)).to(pieces.dtype.element_ty)  # (BD, Tp, BP)
        upstream = _upstream(
            grad, image, y, x, valid, d, first, out_height, out_width, channels, outputs, dilation, shift_y, shift_x,
            grad_b, grad_h, grad_w, grad_c, WIDE, STRIDE, KY, KX, OUTPUTS, KB,
        )  # fmt: skip
        upstream = tl.permute(upstream, (2, 0, 1)).to(small.dtype)  # (BD, BP, KB)
        part = tl.dot(small, upstream, part, input_precision="ieee")
    k = first + tl.arange(0, KB)
    row = (chunk * channels + d).to(tl.int64)[:, None] * maps_count + t[None, :]  # (BD, Tp)
    known = (d < channels)[:, None] & (t < maps_count)[None, :]
    place = parts + row[:, :, None] * (KY * KX * OUTPUTS) + k[None, None, :]
    tl.store(place, part, mask=known[:, :, None] & (k < KY * KX * OUTPUTS)[None, None, :])
