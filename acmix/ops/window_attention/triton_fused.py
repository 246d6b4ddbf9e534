"""Windows that one block holds, of up to 64 pixels and narrow heads: forward in one program, and all gradients in one.

What is added to the logits, bias and mask, is the same in every window of a kind: those that neither the seam of the
roll nor the border crosses, and each row and column of windows from the first that one of them crosses. `expand` writes
it once a call as tiles (kinds, N, BLOCK, BLOCK), which stay in the nearest caches: made in place, from indices and
comparisons, it took more registers than the attention itself. Shapes and arguments are those of `triton_kernels`.
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import kind_of, tuned, unroll
from acmix.ops.window_attention.triton_kernels import bias_of, load_rows, scaled, store_bias, store_rows, upstream_of


@tuned("heads", choices=((4, 2),), float32=(4, 2))
@triton.jit
def expand(
    table, table_e, table_n, tiles, height, width, heads, shift_y, shift_x, first_y, first_x, kinds_x,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One kind of windows of one head: the bias of every query and key, −∞ where the query does not see the key."""
    kind = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    place = tl.arange(0, BLOCK)
    y = (first_y - 1 + kind // kinds_x) * WH + place // WW
    x = (first_x - 1 + kind % kinds_x) * WW + place % WW
    valid = (place < WH * WW) & (y < height) & (x < width)
    part = kind_of(y, shift_y, height) * 3 + kind_of(x, shift_x, width)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    if HAS_BIAS:
        bias = bias_of(table + head * table_n, table_e, place, place, WH, WW)
    seen = (part[:, None] == part[None, :]) & valid[None, :]
    # a place without a pixel adds nothing to any sum, as long as its own is finite
    tile = tl.where(valid[:, None], tl.where(seen, bias, float("-inf")), 0.0)
    row = (kind * heads + head) * BLOCK + place
    tl.store(tiles + row[:, None] * BLOCK + place[None, :], tile)


@triton.jit
def _window(
    window, height, width, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x,
    WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A window: row and column of each pixel in the map, which of them exist, (BLOCK,) each, and the window's kind."""
    place = tl.arange(0, BLOCK)
    corner = window % per_map
    row = corner // columns
    column = corner % columns
    y = row * WH + place // WW
    x = column * WW + place % WW
    # a window beyond the last has no pixels
    valid = (place < tl.where(window < windows, WH * WW, 0)) & (y < height) & (x < width)
    kind = tl.maximum(row - first_y + 1, 0) * kinds_x + tl.maximum(column - first_x + 1, 0)
    return unroll(y, shift_y, height).to(tl.int64), unroll(x, shift_x, width).to(tl.int64), valid, kind


@triton.jit
def _load_tile(tiles, kind, head, heads, BLOCK: tl.constexpr):
    """What is added to the logits of a window: (BLOCK, BLOCK)."""
    place = tl.arange(0, BLOCK)
    row = (kind * heads + head) * BLOCK + place
    return tl.load(tiles + row[:, None] * BLOCK + place[None, :])


@triton.jit
def _attend(
    window, qkv, tiles, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, scale,
    WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A window's pixels, where its values begin, its queries and keys, and the weights before they are divided."""
    y, x, valid, kind = _window(
        window, height, width, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, WH, WW, BLOCK
    )
    base = qkv + (window // per_map).to(tl.int64) * stride_b + head * stride_n
    q = scaled(load_rows(base, y, x, valid, channels, stride_h, stride_w, stride_d, BD), scale)
    k = load_rows(base + stride_s, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
    logits = tl.dot(q, tl.trans(k), _load_tile(tiles, kind, head, heads, BLOCK), input_precision="ieee")
    weights = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return y, x, valid, base + 2 * stride_s, q, k, weights, tl.sum(weights, axis=1)


@tuned("channels", "BLOCK", choices=((4, 2),), float32=(4, 1))
@triton.jit
def forward(
    qkv, tiles, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, scale,
    out, each, WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One head in some windows."""
    head = (tl.program_id(0) % heads).to(tl.int64)
    chunk = tl.program_id(0) // heads
    d = tl.arange(0, BD)
    # what could be computed before the loop would be kept in registers
    for i in tl.range(each, disable_licm=True):
        window = chunk * each + i
        y, x, valid, values, _q, _k, weights, total = _attend(
            window, qkv, tiles, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, height, width, heads,
            channels, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, scale, WH, WW, BLOCK, BD,
        )  # fmt: skip
        v = load_rows(values, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
        found = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / total[:, None]
        row = ((window // per_map).to(tl.int64) * height + y) * width + x
        place = out + ((row * heads + head) * channels)[:, None] + d[None, :]
        tl.store(place, found.to(out.dtype.element_ty), mask=valid[:, None] & (d < channels)[None, :])


@tuned("channels", "BLOCK", choices=((4, 1),), float32=(4, 1))
@triton.jit
def backward(
    qkv, tiles, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, scale,
    grad, grad_b, grad_h, grad_w, grad_c, grad_qkv, parts, each,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One head in some windows: the gradients of q, k and v, and this program's part of the bias's."""
    head = (tl.program_id(0) % heads).to(tl.int64)
    chunk = tl.program_id(0) // heads
    bias_part = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for i in tl.range(each, disable_licm=True):
        window = chunk * each + i
        y, x, valid, values, q, k, weights, total = _attend(
            window, qkv, tiles, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, height, width, heads,
            channels, windows, per_map, columns, shift_y, shift_x, first_y, first_x, kinds_x, scale, WH, WW, BLOCK, BD,
        )  # fmt: skip
        weights = weights / total[:, None]
        # zero where there is no query, so that such rows add nothing below
        upstream = upstream_of(
            grad, window, head, y, x, valid, channels, per_map, grad_b, grad_h, grad_w, grad_c, BD
        ).to(q.dtype)  # fmt: skip
        grad_v = tl.dot(tl.trans(weights.to(q.dtype)), upstream, input_precision="ieee")
        store_rows(grad_qkv, grad_v, 2, window, head, y, x, valid, height, width, heads, channels, per_map, BD)
        v = load_rows(values, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision="ieee")
        mean = tl.sum(weights * grad_weights, axis=1)
        grad_logits = weights * (grad_weights - mean[:, None])
        if HAS_BIAS:
            bias_part += grad_logits
        small = grad_logits.to(q.dtype)
        grad_q = tl.dot(small, k, input_precision="ieee") * scale
        store_rows(grad_qkv, grad_q, 0, window, head, y, x, valid, height, width, heads, channels, per_map, BD)
        grad_k = tl.dot(tl.trans(small), q, input_precision="ieee")
        store_rows(grad_qkv, grad_k, 1, window, head, y, x, valid, height, width, heads, channels, per_map, BD)
    if HAS_BIAS:
        everywhere = tl.arange(0, BLOCK)
        store_bias(parts, bias_part, chunk, head, heads, everywhere, everywhere, WH * WW)
