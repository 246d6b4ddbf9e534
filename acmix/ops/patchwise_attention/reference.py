"""Patchwise attention's definition in plain PyTorch: a sum over each pixel's neighbours with weights of any making.

One offset at a time is looked at, through a view of the map mirrored once: no neighbourhood of values is stored.

Shapes
    B batch · H, W map · C channels · Ky, Kx sides of a neighbourhood · O = Ky·Kx offsets · G groups of C/G channels
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops.neighbours import fold_edges, neighbours, views
from acmix.ops.patchwise_attention.spec import Arguments


def why_not(arguments: Arguments) -> str | None:
    """Nothing is out of its reach."""


def forward(arguments: Arguments) -> Tensor:
    """out_i = Σ_j w_ij · v_j over the Ky×Kx pixels j around i; see `acmix.ops.patchwise_attention`."""
    values, weights, size = arguments
    wide = torch.promote_types(values.dtype, torch.float32)
    groups = weights.shape[4]
    out = values.new_zeros(values.shape, dtype=wide).unflatten(3, (groups, -1))  # (B, H, W, G, C/G)
    for o, value in enumerate(neighbours(values.to(wide), size)):
        out = torch.addcmul(out, weights[:, :, :, o, :, None].to(wide), value.unflatten(3, (groups, -1)))
    return out.flatten(3).to(values.dtype)  # (B, H, W, C)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients of values and of weights."""
    values, weights, size = arguments
    wide = torch.promote_types(values.dtype, torch.float32)
    batch, height, width, channels = values.shape
    groups = weights.shape[4]
    above, left = (side // 2 for side in size)
    grad = grad.to(wide).unflatten(3, (groups, -1))  # (B, H, W, G, C/G)
    # made like what is added to it, so that `vmap` may add
    like = weights[:1, :1, :1, 0, :, None].to(wide) * grad[:1, :1, :1]
    padded = like.new_zeros(batch, height + 2 * above, width + 2 * left, groups, channels // groups)
    grad_weights = []
    grad_neighbours = views(padded, (height, width), size, 1, 1)
    for o, (value, grad_value) in enumerate(zip(neighbours(values.to(wide), size), grad_neighbours, strict=True)):
        grad_weights.append((grad * value.unflatten(3, (groups, -1))).sum(4))  # (B, H, W, G)
        grad_value.addcmul_(weights[:, :, :, o, :, None].to(wide), grad)
    grad_values = fold_edges(fold_edges(padded, 1, height, above), 2, width, left).flatten(3)  # (B, H, W, C)
    return grad_values.to(values.dtype), torch.stack(grad_weights, 3).to(weights.dtype)
