"""The convolution path for graphs that leave PyTorch: a product, a grouped convolution, and no size that is fixed.

Shapes: see `acmix.ops.conv_path`; Ho, Wo of the output
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from acmix.ops.conv_path.reference import geometry, with_added
from acmix.ops.conv_path.spec import Arguments
from acmix.ops.leaving import fresh, rolled


def forward(arguments: Arguments) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *_ = arguments
    dtype = pieces.dtype
    bias = None if fc_bias is None else fc_bias.to(dtype)
    maps = F.linear(rolled(pieces, shift).transpose(3, 4), fc_weight.to(dtype), bias)  # (B, H, W, D, T)
    image = fresh(maps.flatten(3).permute(0, 3, 1, 2))  # (B, D·T, H, W)
    groups = int(pieces.shape[4])
    out = F.conv2d(image, kernels.to(dtype), groups=groups, **geometry(kernels, stride, dilation))
    out = rolled(fresh(out.permute(0, 2, 3, 1)), shift, back=True)  # (B, Ho, Wo, D·M)
    return with_added(out, arguments.plus, arguments.plus_bias)
