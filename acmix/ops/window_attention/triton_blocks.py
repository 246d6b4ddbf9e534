"""Backward of window attention for windows beyond one block: a pass for queries, one for keys, one for the bias.

Queries come first and leave two numbers each for the others, (windows, N, L): the logarithm of the softmax's sum, and
the mean of the weights' gradients. Shapes and arguments are those of `triton_kernels`.
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import tuned
from acmix.ops.window_attention.triton_kernels import (
    HIDDEN,
    bias_of,
    load_rows,
    logits_of,
    pixels_of,
    scaled,
    store_bias,
    store_rows,
)


@tuned("channels", "BLOCK", "BLOCKS")
@triton.jit
def queries_back(
    qkv, table, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, table_e, table_n,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, scale,
    grad, grad_b, grad_h, grad_w, grad_c, grad_qkv, log_sums, means,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head in one window: their gradients, and the two numbers each."""
    head = (tl.program_id(0) % heads).to(tl.int64)
    rest = tl.program_id(0) // heads
    window = rest // BLOCKS
    image = (window // per_map).to(tl.int64)
    base = qkv + image * stride_b + head * stride_n
    grad_base = grad + image * grad_b + head * channels * grad_c
    place_q, y, x, kind_q, valid_q = pixels_of(
        window, (rest % BLOCKS) * BLOCK, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
    )
    q = scaled(load_rows(base, y, x, valid_q, channels, stride_h, stride_w, stride_d, BD), scale)
    slope = load_rows(grad_base, y, x, valid_q, channels, grad_h, grad_w, grad_c, BD).to(q.dtype)
    largest = tl.full((BLOCK,), HIDDEN, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    mean = tl.zeros((BLOCK,), dtype=tl.float32)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for block in range(BLOCKS):
        place_k, key_y, key_x, kind_k, valid_k = pixels_of(
            window, block * BLOCK, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
        )
        k = load_rows(base + stride_s, key_y, key_x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        v = load_rows(base + 2 * stride_s, key_y, key_x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        if HAS_BIAS:
            bias = bias_of(table + head * table_n, table_e, place_q, place_k, WH, WW)
        logits = logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED)
        before = largest
        largest = tl.maximum(before, tl.max(logits, axis=1))
        weights = tl.exp(logits - largest[:, None])
        fade = tl.exp(before - largest)
        total = total * fade + tl.sum(weights, axis=1)
        grad_weights = tl.dot(slope, tl.trans(v), input_precision="ieee")
        mean = mean * fade + tl.sum(weights * grad_weights, axis=1)
    log_sum = largest + tl.log(total)
    mean = mean / total
    grad_q = tl.zeros((BLOCK, BD), dtype=tl.float32)
    for block in range(BLOCKS):
        place_k, key_y, key_x, kind_k, valid_k = pixels_of(
            window, block * BLOCK, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
        )
        k = load_rows(base + stride_s, key_y, key_x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        v = load_rows(base + 2 * stride_s, key_y, key_x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        if HAS_BIAS:
            bias = bias_of(table + head * table_n, table_e, place_q, place_k, WH, WW)
        weights = tl.exp(logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED) - log_sum[:, None])
        grad_weights = tl.dot(slope, tl.trans(v), input_precision="ieee")
        grad_logits = (weights * (grad_weights - mean[:, None])).to(k.dtype)
        grad_q = tl.dot(grad_logits, k, grad_q, input_precision="ieee")
    store_rows(grad_qkv, grad_q * scale, 0, image, head, y, x, valid_q, height, width, heads, channels, BD)
    row = (window * heads + head) * (WH * WW) + place_q
    tl.store(log_sums + row, log_sum, mask=place_q < WH * WW)
    tl.store(means + row, mean, mask=place_q < WH * WW)


@tuned("channels", "BLOCK", "BLOCKS")
@triton.jit
def keys_back(
    qkv, table, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, table_e, table_n,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, scale,
    grad, grad_b, grad_h, grad_w, grad_c, grad_qkv, log_sums, means,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One block of keys of one head in one window: the gradients of keys and values."""
    head = (tl.program_id(0) % heads).to(tl.int64)
    rest = tl.program_id(0) // heads
    window = rest // BLOCKS
    image = (window // per_map).to(tl.int64)
    base = qkv + image * stride_b + head * stride_n
    grad_base = grad + image * grad_b + head * channels * grad_c
    place_k, y, x, kind_k, valid_k = pixels_of(
        window, (rest % BLOCKS) * BLOCK, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
    )
    k = load_rows(base + stride_s, y, x, valid_k, channels, stride_h, stride_w, stride_d, BD)
    v = load_rows(base + 2 * stride_s, y, x, valid_k, channels, stride_h, stride_w, stride_d, BD)
    grad_k = tl.zeros((BLOCK, BD), dtype=tl.float32)
    grad_v = tl.zeros((BLOCK, BD), dtype=tl.float32)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for block in range(BLOCKS):
        place_q, query_y, query_x, kind_q, valid_q = pixels_of(
            window, block * BLOCK, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
        )
        q = scaled(load_rows(base, query_y, query_x, valid_q, channels, stride_h, stride_w, stride_d, BD), scale)
        slope = load_rows(grad_base, query_y, query_x, valid_q, channels, grad_h, grad_w, grad_c, BD).to(q.dtype)
        row = (window * heads + head) * (WH * WW) + place_q
        log_sum = tl.load(log_sums + row, mask=place_q < WH * WW, other=0.0)
        mean = tl.load(means + row, mask=place_q < WH * WW, other=0.0)
        if HAS_BIAS:
            bias = bias_of(table + head * table_n, table_e, place_q, place_k, WH, WW)
        logits = logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED)
        # a row of padding has no sum worth its name
        weights = tl.where(valid_q[:, None], tl.exp(logits - log_sum[:, None]), 0.0)
        grad_weights = tl.dot(slope, tl.trans(v), input_precision="ieee")
        grad_logits = (weights * (grad_weights - mean[:, None])).to(q.dtype)
        grad_v = tl.dot(tl.trans(weights.to(q.dtype)), slope, grad_v, input_precision="ieee")
        grad_k = tl.dot(tl.trans(grad_logits), q, grad_k, input_precision="ieee")
    store_rows(grad_qkv, grad_k, 1, image, head, y, x, valid_k, height, width, heads, channels, BD)
    store_rows(grad_qkv, grad_v, 2, image, head, y, x, valid_k, height, width, heads, channels, BD)


@tuned("channels", "BLOCK", "BLOCKS")
@triton.jit
def bias_back(
    qkv, table, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d, table_e, table_n,
    height, width, heads, channels, windows, per_map, columns, shift_y, shift_x, scale,
    grad, grad_b, grad_h, grad_w, grad_c, grad_qkv, log_sums, means, parts, each,
    WH: tl.constexpr, WW: tl.constexpr, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One pair of blocks of one head in some windows: this program's part of the bias's gradient."""
    head = (tl.program_id(0) % heads).to(tl.int64)
    rest = tl.program_id(0) // heads
    first_q = (rest % BLOCKS) * BLOCK
    first_k = (rest // BLOCKS % BLOCKS) * BLOCK
    chunk = rest // (BLOCKS * BLOCKS)
    bias = bias_of(
        table + head * table_n, table_e, first_q + tl.arange(0, BLOCK), first_k + tl.arange(0, BLOCK), WH, WW
    )
    part = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for i in range(each):
        window = chunk * each + i
        image = (window // per_map).to(tl.int64)
        base = qkv + image * stride_b + head * stride_n
        place_q, y, x, kind_q, valid_q = pixels_of(
            window, first_q, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
        )
        q = scaled(load_rows(base, y, x, valid_q, channels, stride_h, stride_w, stride_d, BD), scale)
        slope = load_rows(
            grad + image * grad_b + head * channels * grad_c, y, x, valid_q, channels, grad_h, grad_w, grad_c, BD
        ).to(q.dtype)
        _, y, x, kind_k, valid_k = pixels_of(
            window, first_k, height, width, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK
        )
        k = load_rows(base + stride_s, y, x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        v = load_rows(base + 2 * stride_s, y, x, valid_k, channels, stride_h, stride_w, stride_d, BD)
        row = (window * heads + head) * (WH * WW) + place_q
        known = place_q < tl.where(window < windows, WH * WW, 0)
        log_sum = tl.load(log_sums + row, mask=known, other=0.0)
        mean = tl.load(means + row, mask=known, other=0.0)
        logits = logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED)
        weights = tl.where(valid_q[:, None], tl.exp(logits - log_sum[:, None]), 0.0)
        grad_weights = tl.dot(slope, tl.trans(v), input_precision="ieee")
        part += weights * (grad_weights - mean[:, None])
    first = tl.arange(0, BLOCK)
    store_bias(parts, part, chunk, head, heads, first_q + first, first_k + first, WH * WW)
