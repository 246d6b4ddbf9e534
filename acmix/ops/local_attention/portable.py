"""Local attention for graphs that leave PyTorch: one gather of keys and one of values, whatever the neighbourhood.

The graph has few nodes and needs memory for them: every pixel's neighbourhood exists, Ky·Kx·C numbers a pixel, first of
keys, then of values. At 224 pixels a layer of ResNet's first stage holds 39 MB of either for an image in float32.

Shapes: see `acmix.ops.local_attention`; Ho, Wo of the output · O = Ky·Kx offsets
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops.leaving import around, centres, gathered
from acmix.ops.local_attention.spec import Arguments


def forward(arguments: Arguments) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    qkv, position, size, stride, dilation, scale = arguments
    height, width = qkv.shape[1:3]
    query, key, value = qkv.unbind(3)  # (B, H, W, N, D) each
    if position is not None:
        key = key - position.to(key.dtype)[:, :, None]  # (H, W, 1, D)
    pixel = around((height, width), size, stride, dilation, qkv.device)  # (Ho, Wo, O)
    for dim, side in ((1, height), (2, width)) if stride > 1 else ():
        query = query.index_select(dim, centres(side, stride, qkv.device))  # (B, Ho, Wo, N, D) in the end
    logits = (query[:, :, :, None] * gathered(key, pixel)).sum(-1)  # (B, Ho, Wo, O, N)
    wide = torch.promote_types(logits.dtype, torch.float32)
    weights = (logits.to(wide) * scale).softmax(3).to(qkv.dtype)
    return (weights[..., None] * gathered(value, pixel)).sum(3).flatten(3)  # (B, Ho, Wo, C)
