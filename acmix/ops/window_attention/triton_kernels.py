"""The kernels of window attention, and what all of them share: a window's pixels, bias, mask, loads and stores.

Shapes
    H, W map · N heads · D channels a head · BD: D rounded up to a power of two · L = WH·WW pixels a window
    BLOCK places of a window, of which those from L on are nobody's
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import kind_of, softmax_step, tuned, unroll

# A logit that no softmax sees; finite, so that a row without any key is no NaN.
HIDDEN = tl.constexpr(-1e30)


@triton.jit
def pixels_of(
    window, first, height, width, windows, per_map, columns, shift_y, shift_x,
    WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of a window's pixels: place in the window, row and column in the map, kind, validity; (BLOCK,) each."""
    place = first + tl.arange(0, BLOCK)
    corner = window % per_map
    y = (corner // columns) * WH + place // WW
    x = (corner % columns) * WW + place % WW
    # a window beyond the last has no places
    valid = (place < tl.where(window < windows, WH * WW, 0)) & (y < height) & (x < width)
    kind = kind_of(y, shift_y, height) * 3 + kind_of(x, shift_x, width)
    return place, unroll(y, shift_y, height).to(tl.int64), unroll(x, shift_x, width).to(tl.int64), kind, valid


@triton.jit
def load_rows(base, y, x, valid, channels, stride_h, stride_w, stride_d, BD: tl.constexpr):
    """The rows of D channels at some pixels; zero where there is none: (BLOCK, BD)."""
    d = tl.arange(0, BD)
    place = base + (y * stride_h + x * stride_w)[:, None] + d.to(tl.int64)[None, :] * stride_d
    return tl.load(place, mask=valid[:, None] & (d < channels)[None, :], other=0.0)


@triton.jit
def bias_of(table, stride_entry, place_q, place_k, WH: tl.constexpr, WW: tl.constexpr):
    """The bias of every pair of two blocks of places, (BLOCK, BLOCK); `table` points to the head's column."""
    down = (place_q // WW)[:, None] - (place_k // WW)[None, :] + WH - 1
    right = (place_q % WW)[:, None] - (place_k % WW)[None, :] + WW - 1
    known = (place_q < WH * WW)[:, None] & (place_k < WH * WW)[None, :]
    return tl.load(table + (down * (2 * WW - 1) + right) * stride_entry, mask=known, other=0.0).to(tl.float32)


@triton.jit
def scaled(q, scale):
    """Queries times the scale, rounded as the reference rounds them."""
    return (q.to(tl.float32) * scale).to(q.dtype)


@triton.jit
def logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED: tl.constexpr):
    """Logits of a block of scaled queries and one of keys, (BLOCK, BLOCK)."""
    seen = (kind_q >= 0)[:, None] & valid_k[None, :]
    if MASKED:
        seen = seen & (kind_q[:, None] == kind_k[None, :])
    return tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") + bias, HIDDEN)


@triton.jit
def program_of(heads, BLOCKS: tl.constexpr):
    """What a program works at: its head (int64), which block of a window's pixels, and which windows."""
    rest = tl.program_id(0) // heads
    return (tl.program_id(0) % heads).to(tl.int64), rest % BLOCKS, rest // BLOCKS


@triton.jit
def keys_of(
    qkv, window, first, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
    height, width, channels, windows, per_map, columns, shift_y, shift_x,
    WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A block of a window's keys and values, (BLOCK, BD) each; their places, rows, columns, kinds and validity."""
    base = qkv + (window // per_map).to(tl.int64) * stride_b + head * stride_n
    place, y, x, kind, valid = pixels_of(
        window, first, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
    )
    k = load_rows(base + stride_s, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
    v = load_rows(base + 2 * stride_s, y, x, valid, channels, stride_h, stride_w, stride_d, BD)
    return k, v, place, y, x, kind, valid


@triton.jit
def queries_of(
    qkv, window, first, head, stride_b, stride_h, stride_w, stride_n, stride_d,
    height, width, channels, windows, per_map, columns, shift_y, shift_x, scale,
    WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A block of a window's scaled queries, (BLOCK, BD); their places, rows, columns, kinds and validity."""
    base = qkv + (window // per_map).to(tl.int64) * stride_b + head * stride_n
    place, y, x, kind, valid = pixels_of(
        window, first, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
    )
    q = scaled(load_rows(base, y, x, valid, channels, stride_h, stride_w, stride_d, BD), scale)
    return q, place, y, x, kind, valid


@triton.jit
def upstream_of(grad, window, head, y, x, valid, channels, per_map, grad_b, grad_h, grad_w, grad_c, BD: tl.constexpr):
    """The gradient of the outputs of a block of queries, (BLOCK, BD)."""
    base = grad + (window // per_map).to(tl.int64) * grad_b + head * channels * grad_c
    return load_rows(base, y, x, valid, channels, grad_h, grad_w, grad_c, BD)


@triton.jit
def attend(
    q, place_q, kind_q, bias, qkv, table, window, block, head, stride_b, stride_h, stride_w, stride_s, stride_n,
    stride_d, table_e, table_n, height, width, channels, windows, per_map, columns, shift_y, shift_x,
    WH: tl.constexpr, WW: tl.constexpr, LOAD_BIAS: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """A block of queries on one block of keys: logits (BLOCK, BLOCK), and those keys and values."""
    k, v, place_k, _key_y, _key_x, kind_k, valid_k = keys_of(
        qkv, window, block * BLOCK, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
        height, width, channels, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK, BD,
    )  # fmt: skip
    if LOAD_BIAS:
        bias = bias_of(table + head * table_n, table_e, place_q, place_k, WH, WW)
    return logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED), k, v


@triton.jit
def store_rows(
    grad_qkv, values, which: tl.constexpr, window, head, y, x, valid, height, width, heads, channels, per_map,
    BD: tl.constexpr,
):  # fmt: skip
    """Writes a block of gradients of q, k or v (which: 0, 1, 2) into the contiguous (B, H, W, 3, N, D)."""
    image = (window // per_map).to(tl.int64)
    d = tl.arange(0, BD)
    row = (((image * height + y) * width + x) * 3 + which) * heads + head
    place = grad_qkv + (row * channels)[:, None] + d[None, :]
    tl.store(place, values.to(grad_qkv.dtype.element_ty), mask=valid[:, None] & (d < channels)[None, :])


@triton.jit
def store_bias(parts, part, chunk, head, heads, place_q, place_k, PIXELS: tl.constexpr):
    """Writes a program's part of the bias's gradient into (programs, N, L, L)."""
    row = ((chunk * heads + head) * PIXELS + place_q).to(tl.int64)
    known = (place_q < PIXELS)[:, None] & (place_k < PIXELS)[None, :]
    tl.store(parts + (row * PIXELS)[:, None] + place_k[None, :], part, mask=known)


@tuned("channels", "BLOCK", "BLOCKS")
@triton.jit
def forward(
    qkv, table, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, table_e, table_n,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, scale, out, each,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head, in some windows."""
    head, block_q, chunk = program_of(heads, BLOCKS)
    d = tl.arange(0, BD)
    everywhere = tl.arange(0, BLOCK)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    if HAS_BIAS and BLOCKS == 1:
        bias = bias_of(table + head * table_n, table_e, everywhere, everywhere, WH, WW)
    for i in range(each):
        window = chunk * each + i
        q, place_q, y, x, kind_q, valid_q = queries_of(
            qkv, window, block_q * BLOCK, head, stride_b, stride_h, stride_w, stride_n, stride_d,
            height, width, channels, windows, per_map, columns, shift_y, shift_x, scale, WH, WW, BLOCK, BD,
        )  # fmt: skip
        largest = tl.full((BLOCK,), HIDDEN, dtype=tl.float32)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        found = tl.zeros((BLOCK, BD), dtype=tl.float32)
        for block in range(BLOCKS):
            logits, _k, v = attend(
                q, place_q, kind_q, bias, qkv, table, window, block, head, stride_b, stride_h, stride_w, stride_s,
                stride_n, stride_d, table_e, table_n, height, width, channels, windows, per_map, columns,
                shift_y, shift_x, WH, WW, HAS_BIAS and BLOCKS > 1, MASKED, BLOCK, BD,
            )  # fmt: skip
            largest, total, weights, fade = softmax_step(largest, total, logits)
            found = tl.dot(weights.to(v.dtype), v, found * fade[:, None], input_precision="ieee")
        row = ((window // per_map).to(tl.int64) * height + y) * width + x
        place = out + ((row * heads + head) * channels)[:, None] + d[None, :]
        mask = valid_q[:, None] & (d < channels)[None, :]
        tl.store(place, (found / total[:, None]).to(out.dtype.element_ty), mask=mask)


@tuned("heads", choices=((4, 2),), float32=(4, 2))
@triton.jit
def gather_table(
    grad_bias, grad_table, entries, heads, WH: tl.constexpr, WW: tl.constexpr, BLOCK: tl.constexpr, LB: tl.constexpr
):
    """grad_table[entry, head] = Σ grad_bias[head, query, key] over the pairs whose places differ by the entry."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    query = tl.arange(0, LB)
    key_y = (query // WW)[None, :] - (entry // (2 * WW - 1) - (WH - 1))[:, None]
    key_x = (query % WW)[None, :] - (entry % (2 * WW - 1) - (WW - 1))[:, None]
    known = (entry < entries)[:, None] & (query < WH * WW)[None, :]
    known = known & (key_y >= 0) & (key_y < WH) & (key_x >= 0) & (key_x < WW)
    place = (head * (WH * WW) + query)[None, :] * (WH * WW) + key_y * WW + key_x
    found = tl.sum(tl.load(grad_bias + place, mask=known, other=0.0), axis=1)
    tl.store(grad_table + entry * heads + head, found.to(grad_table.dtype.element_ty), mask=entry < entries)
