"""Local attention's definition in plain PyTorch, without a tensor that holds every pixel's neighbourhood.

A neighbourhood has Ky·Kx pixels, K² where it is square. One offset at a time is looked at, through a view of the map
padded once, so memory for a neighbour's channels is needed for one offset, never for all.

Shapes
    B batch · H, W height and width of the map · Ho, Wo of the output · N heads · D channels a head · C = N·D
    Ky, Kx sides of a neighbourhood (both K where it is square) · O = Ky·Kx offsets
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def local_attention(
    qkv: Tensor, position: Tensor | None, size: tuple[int, int], stride: int, dilation: int, scale: float
) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    weights, _, _, values = parts(qkv, position, size, stride, dilation, scale)
    weights = weights.to(qkv.dtype)
    out = weights[0, ..., None] * values[0]  # (B, Ho, Wo, N, D)
    for o, value in enumerate(values[1:], 1):
        out = torch.addcmul(out, weights[o, ..., None], value)
    return out.flatten(3)  # (B, Ho, Wo, C)


def local_attention_backward(
    grad: Tensor, qkv: Tensor, position: Tensor | None, size: tuple[int, int], stride: int, dilation: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of position (empty where there is none)."""
    weights, query, keys, values = parts(qkv, position, size, stride, dilation, scale)
    grad = grad.unflatten(3, query.shape[3:])  # (B, Ho, Wo, N, D)
    grad_weights = torch.stack([(grad * value).sum(-1) for value in values]).to(weights.dtype)  # (O, B, Ho, Wo, N)
    grad_logits = weights * (grad_weights - (grad_weights * weights).sum(0))  # (O, B, Ho, Wo, N)
    grad_logits, weights = (grad_logits * scale).to(qkv.dtype), weights.to(qkv.dtype)

    batch, height, width, _, heads, channels = qkv.shape
    above, left = (dilation * (side // 2) for side in size)
    padded = qkv.new_zeros(2, batch, height + 2 * above, width + 2 * left, heads, channels)
    grad_query = torch.zeros_like(query)
    grad_keys = views(padded[0], query.shape[1:3], size, stride, dilation)
    grad_values = views(padded[1], query.shape[1:3], size, stride, dilation)
    for o, (key, grad_key, grad_value) in enumerate(zip(keys, grad_keys, grad_values, strict=True)):
        grad_query.addcmul_(grad_logits[o, ..., None], key)
        grad_key.addcmul_(grad_logits[o, ..., None], query)
        grad_value.addcmul_(weights[o, ..., None], grad)

    grad_qkv = qkv.new_zeros(qkv.shape)
    grad_qkv[:, ::stride, ::stride, 0] = grad_query
    folded = fold_edges(fold_edges(padded, 2, height, above), 3, width, left)  # (2, B, H, W, N, D)
    grad_qkv[:, :, :, 1:] = folded.permute(1, 2, 3, 0, 4, 5)
    grad_position = qkv.new_empty(0) if position is None else -folded[0].sum((0, 3)).to(position.dtype)
    return grad_qkv, grad_position


def parts(
    qkv: Tensor, position: Tensor | None, size: tuple[int, int], stride: int, dilation: int, scale: float
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The softmax (O, B, Ho, Wo, N) in float32 at least, the queries, and each offset's keys and values."""
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


def views(
    padded: Tensor, out_size: tuple[int, ...] | torch.Size, size: tuple[int, int], stride: int, dilation: int
) -> Iterator[Tensor]:
    """For each of the offsets, row by row, the view of a padded map that lies under the output's pixels."""
    rows, columns = (stride * (side - 1) + 1 for side in out_size)
    for y in range(0, size[0] * dilation, dilation):
        for x in range(0, size[1] * dilation, dilation):
            yield padded[:, y : y + rows : stride, x : x + columns : stride]


def reflected(side: int, reach: int, device: torch.device) -> Tensor:
    """The pixel that stands at −reach … side − 1 + reach when a line is mirrored at both ends, as often as it takes.

    Where reflection padding is allowed (reach < side) this is it; a line of one pixel repeats that pixel.
    """
    # tensors all the way, no branch: in a traced graph the side may be any
    period = torch.arange(side, device=device)[-1:].mul(2).clamp(min=1)  # (1,)
    position = torch.arange(-reach, side + reach, device=device).remainder(period)
    return torch.minimum(position, period - position)


def fold_edges(padded: Tensor, dim: int, side: int, reach: int) -> Tensor:
    """Adds what lies in the mirrored margins of a dimension to the pixels they mirror."""
    shape = list(padded.shape)
    shape[dim] = side
    return padded.new_zeros(shape).index_add_(dim, reflected(side, reach, padded.device), padded)
