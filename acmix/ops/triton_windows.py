"""What the kernels of window attention share: where a window's pixels lie, its bias and mask, loads and stores.

Shapes
    H, W map · N heads · D channels a head · BD: D rounded up to a power of two · L = WH·WW pixels a window
    BLOCK places of a window, of which those from L on are nobody's
"""

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import kind_of, unroll

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
def store_rows(
    grad_qkv, values, which: tl.constexpr, image, head, y, x, valid, height, width, heads, channels, BD: tl.constexpr
):
    """Writes a block of gradients of q, k or v (which: 0, 1, 2) into the contiguous (B, H, W, 3, N, D)."""
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
