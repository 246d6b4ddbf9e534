"""Patchwise attention for graphs that leave PyTorch: one gather of values for any neighbourhood.

Every pixel's neighbourhood of values exists in it, Ky·Kx·C numbers a pixel.

Shapes: see `acmix.ops.patchwise_attention`; O = Ky·Kx offsets
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops.leaving import around, gathered, unflatten
from acmix.ops.patchwise_attention.spec import Arguments


def forward(arguments: Arguments) -> Tensor:
    """out_i = Σ_j w_ij · v_j over the Ky×Kx pixels j around i; see `acmix.ops.patchwise_attention`."""
    values, weights, size = arguments
    height, width = values.shape[1:3]
    groups = int(weights.shape[4])
    wide = torch.promote_types(values.dtype, torch.float32)
    pixel = around((height, width), size, 1, 1, values.device)  # (H, W, O)
    near = unflatten(gathered(values.to(wide), pixel), 4, (groups, -1))  # (B, H, W, O, G, C/G)
    return (weights.to(wide)[..., None] * near).sum(3).flatten(3).to(values.dtype)  # (B, H, W, C)
