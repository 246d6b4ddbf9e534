"""The convolution path in plain PyTorch: any dtype, any device, forward and gradient.

Every other implementation must equal this one. Only the inputs are kept between forward and gradient; what lies
between is made again.

Shapes
    B batch · H, W height and width of the map · Ho, Wo of the output
    P pieces of D channels (3·N where q, k and v have N heads) · T maps made by fc (k²)
    ky, kx sides of the kernels, both k where they are square · M output channels for each of the D channels (N)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.conv_path.spec import Arguments, map_of_outputs
from acmix.ops.neighbours import roll, roll_back


def why_not(arguments: Arguments) -> str | None:
    """Nothing is out of its reach."""


def forward(arguments: Arguments) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *_ = arguments
    maps = conv_path_maps(planes_of(roll(pieces, shift)), fc_weight, fc_bias)  # (B, D, T, H·W)
    image = as_image(maps, *pieces.shape[1:3])  # (B, D·T, H, W)
    out = F.conv2d(image, kernels.to(maps.dtype), groups=pieces.shape[4], **geometry(kernels, stride, dilation))
    out = roll_back(out.permute(0, 2, 3, 1), shift).contiguous()  # (B, Ho, Wo, D·M)
    return with_added(out, arguments.plus, arguments.plus_bias)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (None where there is none) and kernels."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *_ = arguments
    grad = map_behind_tokens(grad, arguments)
    planes = planes_of(roll(pieces, shift))  # (B, D, P, H·W)
    height, width = pieces.shape[1:3]
    maps = conv_path_maps(planes, fc_weight, fc_bias)  # (B, D, T, H·W)
    place = geometry(kernels, stride, dilation)
    grad_maps, grad_kernels, _ = torch.ops.aten.convolution_backward(
        roll(grad, shift).permute(0, 3, 1, 2).contiguous(),
        as_image(maps, height, width),
        kernels.to(maps.dtype),
        None,
        [place["stride"]] * 2,
        place["padding"],
        [place["dilation"]] * 2,
        False,
        [0, 0],
        pieces.shape[4],
        [True, True, False],
    )
    grad_maps = grad_maps.flatten(2).view_as(maps)  # (B, D, T, H·W)
    grad_planes = fc_weight.to(maps.dtype).T @ grad_maps  # (B, D, P, H·W)
    grad_rolled = grad_planes.unflatten(3, (height, width)).permute(0, 3, 4, 2, 1)  # (B, H, W, P, D)
    grad_fc = torch.einsum("bdtx,bdpx->tp", grad_maps, planes)  # (T, P)
    grad_bias = None if fc_bias is None else grad_maps.sum((0, 1, 3)).to(fc_bias.dtype)  # (T,)
    return (
        roll_back(grad_rolled, shift).contiguous(),
        grad_fc.to(fc_weight.dtype),
        grad_bias,
        grad_kernels.to(kernels.dtype),
    )


def with_added(out: Tensor, plus: Tensor | None, bias: Tensor | None) -> Tensor:
    """(B, Ho, Wo, M·D) and what is added to it; as (B, tokens + Ho·Wo, M·D) where that is tokens."""
    if plus is not None and plus.dim() == 3:
        out = out.flatten(1, 2)
        out = F.pad(out, (0, 0, plus.shape[1] - out.shape[1], 0))
    if bias is not None:
        out = out + bias.to(out.dtype)
    return out if plus is None else out + plus


def map_behind_tokens(grad: Tensor, arguments: Arguments) -> Tensor:
    """(B, Ho, Wo, M·D), of the output's gradient that may have tokens in front."""
    if grad.dim() == 4:
        return grad
    _, rows, columns = map_of_outputs(arguments)
    return grad[:, grad.shape[1] - rows * columns :].unflatten(1, (rows, columns))


def planes_of(pieces: Tensor) -> Tensor:
    """Each channel's pieces side by side: (B, H, W, P, D) -> (B, D, P, H·W)."""
    return pieces.permute(0, 4, 3, 1, 2).flatten(3)


def conv_path_maps(planes: Tensor, fc_weight: Tensor, fc_bias: Tensor | None) -> Tensor:
    """The T maps f_t of each channel: (B, D, P, H·W) -> (B, D, T, H·W)."""
    maps = fc_weight.to(planes.dtype) @ planes
    return maps if fc_bias is None else maps + fc_bias.to(maps.dtype)[:, None]


def as_image(maps: Tensor, height: int, width: int) -> Tensor:
    """(B, D, T, H·W) -> (B, D·T, H, W), with the strides of a fresh tensor."""
    # Sides of 1 may carry any stride, and PyTorch's convolution of one pixel in float64 fails at some of them.
    batch, channels, count, _ = maps.shape
    return maps.flatten().reshape(batch, channels * count, height, width)


def geometry(kernels: Tensor, stride: int, dilation: int) -> dict[str, Any]:
    """Stride, dilation, and the zero padding that makes the output ceil(H/stride) × ceil(W/stride)."""
    return {"stride": stride, "dilation": dilation, "padding": [dilation * (side // 2) for side in kernels.shape[2:]]}
