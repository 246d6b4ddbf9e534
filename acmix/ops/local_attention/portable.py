"""Local attention for graphs that leave PyTorch: one gather of keys and one of values for any neighbourhood.

The graph has few nodes and needs memory for them: every pixel's neighbourhood exists, Ky·Kx·C numbers a pixel, first of
keys, then of values. At 224 pixels a layer of ResNet's first stage holds 39 MB of either for an image in float32.

Shapes: see `acmix.ops.local_attention`; Ho, Wo of the output · O = Ky·Kx offsets
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops.leaving import around, centres, fresh, unflatten
from acmix.ops.local_attention.spec import Arguments


def forward(arguments: Arguments) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    qkv, position, size, stride, dilation, scale = arguments
    height, width = qkv.shape[1:3]
    pixels = qkv.flatten(1, 2).permute(2, 1, 0, 3, 4)  # (3, H·W, B, N, D); a gather of the first dimension is one node
    query, key, value = pixels[0], pixels[1], pixels[2]
    if position is not None:
        key = key - position.to(key.dtype).flatten(0, 1)[:, None, None]  # (H·W, 1, 1, D)
    pixel = around((height, width), size, stride, dilation, qkv.device)  # (Ho, Wo, O)
    if stride > 1:
        rows, columns = (centres(side, stride, qkv.device) for side in (height, width))
        query = query[rows[:, None] * width + columns]  # (Ho, Wo, B, N, D)
    else:
        query = unflatten(query, 0, (height, width))
    logits = (query[:, :, None] * key[pixel]).sum(-1)  # (Ho, Wo, O, B, N)
    wide = torch.promote_types(logits.dtype, torch.float32)
    weights = (logits.to(wide) * scale).softmax(2).to(qkv.dtype)
    out = (weights[..., None] * value[pixel]).sum(2)  # (Ho, Wo, B, N, D)
    return fresh(out.permute(2, 0, 1, 3, 4)).flatten(3)  # (B, Ho, Wo, C)
