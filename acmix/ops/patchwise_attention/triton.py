"""Patchwise attention on a GPU: one pass forward, one pass each for the gradients of values and of weights.

Mirrored borders are index arithmetic, and no neighbourhood is stored. The gradient of a value gathers what the outputs
around the pixel, and around its mirror images, ask of it: no atomics, so two runs give the same bits.

Shapes
    B batch · H, W map · C channels in G groups of C/G · Ky, Kx sides of a neighbourhood · O = Ky·Kx offsets
"""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops import triton_launch
from acmix.ops.patchwise_attention.spec import Arguments, output
from acmix.ops.triton_launch import Kernels, blocks, images_of, power_of_two

KERNELS = Kernels("acmix.ops.patchwise_attention.triton_kernels")
# numbers that a program keeps in registers
NUMBERS = 1024


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernels do not take these arguments, or None where they do."""
    return triton_launch.why_not(arguments.values)


def forward(arguments: Arguments) -> Tensor:
    """out_i[g] = Σ_j w_ij[g] · v_j[g]; see `acmix.ops.patchwise_attention`."""
    values, weights, size = arguments
    batch, height, width, channels = values.shape
    out = output(arguments)
    if not out.numel():
        return out
    channels_block = power_of_two(channels, most=64)
    block = NUMBERS // channels_block
    pixels = batch * height * width
    KERNELS.forward[(blocks(pixels, block), blocks(channels, channels_block))](
        values, *values.stride(), weights, *weights.stride(), pixels, height, width, channels,
        channels // weights.shape[4], out,
        KY=size[0], KX=size[1], ONCE=mirrors_once(size, height, width), BLOCK=block, CB=channels_block,
    )  # fmt: skip
    return out


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients of values and of weights."""
    values, weights, size = arguments
    batch, height, width, channels = values.shape
    groups = weights.shape[4]
    grad_values = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    grad_weights = torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)
    if not values.numel():
        return grad_values, grad_weights.zero_()
    pixels, per_group = batch * height * width, channels // groups

    channels_block = power_of_two(channels, most=64)
    block = NUMBERS // channels_block
    images_y, images_x = (
        images_of(side, reach // 2, str(values.device)) for side, reach in zip((height, width), size, strict=True)
    )
    KERNELS.values_back[(blocks(pixels, block), blocks(channels, channels_block))](
        grad, *grad.stride(), weights, *weights.stride(), pixels, height, width, channels, per_group,
        images_y, images_x, grad_values,
        KY=size[0], KX=size[1], IMAGES_Y=images_y.shape[1], IMAGES_X=images_x.shape[1], BLOCK=block,
        CB=channels_block,
    )  # fmt: skip

    inner = power_of_two(per_group, most=32)
    groups_block = power_of_two(groups, most=max(1, 64 // inner))
    block = 2 * NUMBERS // (inner * groups_block)
    KERNELS.weights_back[(blocks(pixels, block), blocks(groups, groups_block), size[0] * size[1])](
        grad, *grad.stride(), values, *values.stride(), pixels, height, width, groups, per_group, grad_weights,
        KY=size[0], KX=size[1], ONCE=mirrors_once(size, height, width), BLOCK=block, GB=groups_block, PB=inner,
    )  # fmt: skip
    return grad_values, grad_weights


def mirrors_once(size: tuple[int, int], height: int, width: int) -> bool:
    """Whether a neighbourhood reaches past a border by less than the map, which needs no division."""
    return size[0] // 2 < height and size[1] // 2 < width
