"""Local attention's definition in plain PyTorch, without a tensor that holds every pixel's neighbourhood.

A neighbourhood has Ky·Kx pixels, K² where it is square. One offset at a time is looked at, through a view of the map
padded once, so memory for a neighbour's channels is needed for one offset, never for all.

Shapes
    B batch · H, W height and width of the map · Ho, Wo of the output · N heads · D channels a head · C = N·D
    Ky, Kx sides of a neighbourhood (both K where it is square) · O = Ky·Kx offsets
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops.local_attention.spec import Arguments
from acmix.ops.neighbours import fold_edges, reflected, views


def why_not(arguments: Arguments) -> str | None:
    """Nothing is out of its reach."""


def forward(arguments: Arguments) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    weights, _, _, values = parts(arguments)
    weights = weights.to(arguments.qkv.dtype)
    out = weights[0, ..., None] * values[0]  # (B, Ho, Wo, N, D)
    for o, value in enumerate(values[1:], 1):
        out = torch.addcmul(out, weights[o, ..., None], value)
    return out.flatten(3)  # (B, Ho, Wo, C)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of position (None where there is none)."""
    qkv, position, size, stride, dilation, scale = arguments
    weights, query, keys, values = parts(arguments)
    grad = grad.unflatten(3, query.shape[3:])  # (B, Ho, Wo, N, D)
    grad_weights = torch.stack([(grad * value).sum(-1) for value in values]).to(weights.dtype)  # (O, B, Ho, Wo, N)
    grad_logits = weights * (grad_weights - (grad_weights * weights).sum(0))  # (O, B, Ho, Wo, N)
    grad_logits, weights = (grad_logits * scale).to(qkv.dtype), weights.to(qkv.dtype)

    batch, height, width, _, heads, channels = qkv.shape
    above, left = (dilation * (side // 2) for side in size)
    # made like what is added to them, so that `vmap` may add; two, since autograd allows no views of one made at once
    sides = (batch, height + 2 * above, width + 2 * left, heads, channels)
    padded_keys, padded_values = grad_logits.new_zeros(sides), grad_logits.new_zeros(sides)
    grad_query = grad_logits.new_zeros(query.shape)
    grad_keys = views(padded_keys, query.shape[1:3], size, stride, dilation)
    grad_values = views(padded_values, query.shape[1:3], size, stride, dilation)
    for o, (key, grad_key, grad_value) in enumerate(zip(keys, grad_keys, grad_values, strict=True)):
        grad_query.addcmul_(grad_logits[o, ..., None], key)
        grad_key.addcmul_(grad_logits[o, ..., None], query)
        grad_value.addcmul_(weights[o, ..., None], grad)

    grad_qkv = grad_logits.new_zeros(qkv.shape)
    grad_qkv[:, ::stride, ::stride, 0] = grad_query
    padded = torch.stack([padded_keys, padded_values])  # (2, B, …, N, D)
    folded = fold_edges(fold_edges(padded, 2, height, above), 3, width, left)  # (2, B, H, W, N, D)
    grad_qkv[:, :, :, 1:] = folded.permute(1, 2, 3, 0, 4, 5)
    grad_position = None if position is None else -folded[0].sum((0, 3)).to(position.dtype)
    return grad_qkv, grad_position


def parts(arguments: Arguments) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The softmax (O, B, Ho, Wo, N) in float32 at least, the queries, and each offset's keys and values."""
    qkv, position, size, stride, dilation, scale = arguments
    height, width = qkv.shape[1:3]
    query, key, value = qkv.unbind(3)  # (B, H, W, N, D) each
    query = query[:, ::stride, ::stride]  # (B, Ho, Wo, N, D)
    if position is not None:
        key = key - position.to(key.dtype)[:, :, None]  # (H, W, 1, D)
    above, left = (dilation * (side // 2) for side in size)
    rows, columns = reflected(height, above, qkv.device), reflected(width, left, qkv.device)
    key, value = (each.index_select(1, rows).index_select(2, columns) for each in (key, value))
    keys = list(views(key, query.shape[1:3], size, stride, dilation))
    values = list(views(value, query.shape[1:3], size, stride, dilation))
    logits = torch.stack([(query * each).sum(-1) for each in keys])  # (O, B, Ho, Wo, N)
    weights = (logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale).softmax(0)
    return weights, query, keys, values
