"""Backward of window attention for windows beyond one block: a pass for queries, one for keys, one for the bias.

Queries come first and leave two numbers each for the others, (windows, N, L): the logarithm of the softmax's sum, and
the mean of the weights' gradients. Shapes and arguments are those of `triton_kernels`.
"""

# Triton's types know neither numbers for constexpr arguments nor indexing by None
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from acmix.ops.triton_common import softmax_step, tuned
from acmix.ops.window_attention.triton_kernels import (
    HIDDEN,
    attend,
    bias_of,
    keys_of,
    logits_of,
    program_of,
    queries_of,
    store_bias,
    store_rows,
    upstream_of,
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
    head, block_q, window = program_of(heads, BLOCKS)
    q, place_q, y, x, kind_q, valid_q = queries_of(
        qkv, window, block_q * BLOCK, head, stride_b, stride_h, stride_w, stride_n, stride_d,
        height, width, channels, windows, per_map, columns, shift_y, shift_x, scale, WH, WW, BLOCK, BD,
    )  # fmt: skip
    upstream = upstream_of(grad, window, head, y, x, valid_q, channels, per_map, grad_b, grad_h, grad_w, grad_c, BD)
    upstream = upstream.to(q.dtype)
    largest = tl.full((BLOCK,), HIDDEN, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    mean = tl.zeros((BLOCK,), dtype=tl.float32)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for block in range(BLOCKS):
        logits, k, v = attend(
            q, place_q, kind_q, bias, qkv, table, window, block, head, stride_b, stride_h, stride_w, stride_s,
            stride_n, stride_d, table_e, table_n, height, width, channels, windows, per_map, columns,
            shift_y, shift_x, WH, WW, HAS_BIAS, MASKED, BLOCK, BD,
        )  # fmt: skip
        largest, total, weights, fade = softmax_step(largest, total, logits)
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision="ieee")
        mean = mean * fade + tl.sum(weights * grad_weights, axis=1)
    log_sum = largest + tl.log(total)
    mean = mean / total
    grad_q = tl.zeros((BLOCK, BD), dtype=tl.float32)
    for block in range(BLOCKS):
        logits, k, v = attend(
            q, place_q, kind_q, bias, qkv, table, window, block, head, stride_b, stride_h, stride_w, stride_s,
            stride_n, stride_d, table_e, table_n, height, width, channels, windows, per_map, columns,
            shift_y, shift_x, WH, WW, HAS_BIAS, MASKED, BLOCK, BD,
        )  # fmt: skip
        weights = tl.exp(logits - log_sum[:, None])
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision="ieee")
        grad_logits = (weights * (grad_weights - mean[:, None])).to(k.dtype)
        grad_q = tl.dot(grad_logits, k, grad_q, input_precision="ieee")
    store_rows(grad_qkv, grad_q * scale, 0, window, head, y, x, valid_q, height, width, heads, channels, per_map, BD)
    row = (window * heads + head) * (WH * WW) + place_q
    tl.store(log_sums + row, log_sum, mask=place_q < WH * WW)
    tl.store(means + row, mean, mask=place_q < WH * WW)


@triton.jit
def recompute_weights(
    q, k, v, upstream, bias, kind_q, kind_k, valid_q, valid_k, known, row, log_sums, means, MASKED: tl.constexpr
):
    """Weights of a block of queries on one of keys, from the queries' two numbers, and the logits' gradient."""
    log_sum = tl.load(log_sums + row, mask=known, other=0.0)
    mean = tl.load(means + row, mask=known, other=0.0)
    logits = logits_of(q, k, bias, kind_q, kind_k, valid_k, MASKED)
    # a row of padding has no sum worth its name
    weights = tl.where(valid_q[:, None], tl.exp(logits - log_sum[:, None]), 0.0)
    grad_weights = tl.dot(upstream, tl.trans(v), input_precision="ieee")
    return weights, weights * (grad_weights - mean[:, None])


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
    head, block_k, window = program_of(heads, BLOCKS)
    k, v, place_k, y, x, kind_k, valid_k = keys_of(
        qkv, window, block_k * BLOCK, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
        height, width, channels, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK, BD,
    )  # fmt: skip
    grad_k = tl.zeros((BLOCK, BD), dtype=tl.float32)
    grad_v = tl.zeros((BLOCK, BD), dtype=tl.float32)
    bias = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for block in range(BLOCKS):
        q, place_q, query_y, query_x, kind_q, valid_q = queries_of(
            qkv, window, block * BLOCK, head, stride_b, stride_h, stride_w, stride_n, stride_d,
            height, width, channels, windows, per_map, columns, shift_y, shift_x, scale, WH, WW, BLOCK, BD,
        )  # fmt: skip
        upstream = upstream_of(
            grad, window, head, query_y, query_x, valid_q, channels, per_map, grad_b, grad_h, grad_w, grad_c, BD
        ).to(q.dtype)  # fmt: skip
        if HAS_BIAS:
            bias = bias_of(table + head * table_n, table_e, place_q, place_k, WH, WW)
        row = (window * heads + head) * (WH * WW) + place_q
        weights, grad_logits = recompute_weights(
            q, k, v, upstream, bias, kind_q, kind_k, valid_q, valid_k, place_q < WH * WW, row, log_sums, means, MASKED
        )
        grad_logits = grad_logits.to(q.dtype)
        grad_v = tl.dot(tl.trans(weights.to(q.dtype)), upstream, grad_v, input_precision="ieee")
        grad_k = tl.dot(tl.trans(grad_logits), q, grad_k, input_precision="ieee")
    store_rows(grad_qkv, grad_k, 1, window, head, y, x, valid_k, height, width, heads, channels, per_map, BD)
    store_rows(grad_qkv, grad_v, 2, window, head, y, x, valid_k, height, width, heads, channels, per_map, BD)


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
    head, block_q, rest = program_of(heads, BLOCKS)
    first_q = block_q * BLOCK
    first_k = (rest % BLOCKS) * BLOCK
    chunk = rest // BLOCKS
    first = tl.arange(0, BLOCK)
    bias = bias_of(table + head * table_n, table_e, first_q + first, first_k + first, WH, WW)
    part = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for i in range(each):
        window = chunk * each + i
        q, place_q, y, x, kind_q, valid_q = queries_of(
            qkv, window, first_q, head, stride_b, stride_h, stride_w, stride_n, stride_d,
            height, width, channels, windows, per_map, columns, shift_y, shift_x, scale, WH, WW, BLOCK, BD,
        )  # fmt: skip
        upstream = upstream_of(grad, window, head, y, x, valid_q, channels, per_map, grad_b, grad_h, grad_w, grad_c, BD)
        k, v, _place_k, _key_y, _key_x, kind_k, valid_k = keys_of(
            qkv, window, first_k, head, stride_b, stride_h, stride_w, stride_s, stride_n, stride_d,
            height, width, channels, windows, per_map, columns, shift_y, shift_x, WH, WW, BLOCK, BD,
        )  # fmt: skip
        row = (window * heads + head) * (WH * WW) + place_q
        known = place_q < tl.where(window < windows, WH * WW, 0)
        _weights, grad_logits = recompute_weights(
            q, k, v, upstream.to(q.dtype), bias, kind_q, kind_k, valid_q, valid_k, known, row, log_sums, means, MASKED
        )
        part += grad_logits
    store_bias(parts, part, chunk, head, heads, first_q + first, first_k + first, WH * WW)
