"""The convolution path on a GPU: fc into maps, maps through the kernels, and both ways back, all on tensor cores.

Maps f lie in memory as (B, D, H, W, Tp) in the dtype of the data, of the map rolled by −shift: one channel's T values
at a pixel are one short row, so every tap of every channel is a product of (pixels × Tp) by (Tp × M). README.md of this
folder weighs this against other ways.

Shapes
    B batch · H, W map · Ho, Wo of the output · P pieces of D channels · T maps · M outputs for each of the D
    Tp, Mp: T and M rounded up to a power of two, 16 at least; what is beyond is zero
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acmix.ops import triton_launch
from acmix.ops.conv_path.spec import Arguments, output
from acmix.ops.triton_launch import INTERPRETED, Kernels, blocks, placeholder, power_of_two, rolled_by, share

KERNELS = Kernels("acmix.ops.conv_path.triton_kernels")


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernels do not take these arguments, or None where they do."""
    return triton_launch.why_not(arguments.pieces)


@dataclass(frozen=True)
class Sizes:
    """A case's sizes, and those of the blocks that follow from them."""

    batch: int
    height: int
    width: int
    pieces: int
    channels: int
    out_height: int
    out_width: int
    maps: int
    taps_y: int
    taps_x: int
    outputs: int
    padded_maps: int
    padded_outputs: int
    # one block of pixels for products with kernels, one of (pixel, channel) for products with fc
    pixels: int
    rows_pixels: int
    rows_channels: int

    @classmethod
    def of(cls, pieces: Tensor, kernels: Tensor, stride: int) -> Sizes:
        batch, height, width, count, channels = pieces.shape
        maps, taps_y, taps_x = kernels.shape[1:]
        outputs = kernels.shape[0] // channels
        rows_channels = power_of_two(channels, most=16 if INTERPRETED else 32)
        return cls(
            batch=batch,
            height=height,
            width=width,
            pieces=count,
            channels=channels,
            out_height=blocks(height, stride),
            out_width=blocks(width, stride),
            maps=maps,
            taps_y=taps_y,
            taps_x=taps_x,
            outputs=outputs,
            padded_maps=power_of_two(maps, least=16),
            padded_outputs=power_of_two(outputs, least=16),
            pixels=128,
            rows_pixels=(256 if INTERPRETED else 128) // rows_channels,
            rows_channels=rows_channels,
        )

    @property
    def output_block(self) -> int:
        """How many of the M outputs a product takes at once."""
        return min(self.padded_outputs, 64)

    @property
    def piece_block(self) -> int:
        """How many of the P pieces a product takes at once."""
        return power_of_two(self.pieces, least=16, most=64)

    @property
    def row_blocks(self) -> int:
        """Blocks of (pixel, channel) in the map."""
        return blocks(self.batch * self.height * self.width, self.rows_pixels) * self.channel_blocks

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels."""
        return blocks(self.channels, self.rows_channels)


def forward(arguments: Arguments) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift = arguments
    size = Sizes.of(pieces, kernels, stride)
    out = output(arguments)
    if not out.numel():
        return out
    shift = rolled_by(shift, size.height, size.width)
    maps = make_maps(size, pieces, fc_weight, fc_bias, shift)  # (B, D, H, W, Tp)
    pixels = size.batch * size.out_height * size.out_width
    grid = (size.channels * blocks(pixels, size.pixels), blocks(size.outputs, size.output_block))
    KERNELS.correlate[grid](
        maps, packed(size, kernels, pieces.dtype), out, pixels, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, stride, dilation, *shift,
        KY=size.taps_y, KX=size.taps_x, BLOCK=size.pixels, TP=size.padded_maps, MP=size.padded_outputs,
        MB=size.output_block,
    )  # fmt: skip
    return out


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (None where there is none) and kernels."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift = arguments
    size = Sizes.of(pieces, kernels, stride)
    grad_pieces = torch.empty(pieces.shape, dtype=pieces.dtype, device=pieces.device)
    if not pieces.numel():
        no_bias = None if fc_bias is None else torch.zeros_like(fc_bias)
        return grad_pieces, torch.zeros_like(fc_weight), no_bias, kernels.new_zeros(kernels.shape)
    shift = rolled_by(shift, size.height, size.width)
    maps = make_maps(size, pieces, fc_weight, fc_bias, shift)  # (B, D, H, W, Tp)
    grad_kernels = kernels_gradient(size, grad, maps, stride, dilation, shift)  # (M·D, T, ky, kx)

    grad_maps = torch.empty_like(maps)  # (B, D, H, W, Tp)
    pixels = size.batch * size.height * size.width
    KERNELS.correlate_back[(size.channels * blocks(pixels, size.pixels),)](
        grad, packed(size, kernels, pieces.dtype), grad_maps, pixels, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, dilation, *shift, *grad.stride(),
        STRIDE=stride, KY=size.taps_y, KX=size.taps_x, BLOCK=size.pixels, TP=size.padded_maps,
        MP=size.padded_outputs, MB=size.output_block,
    )  # fmt: skip

    each = share(size.row_blocks, least=4)
    programs = blocks(size.row_blocks, each)
    # every program's own part of fc's gradient; its last column is the bias
    parts = torch.empty(programs, size.maps, size.pieces + 1, dtype=torch.float32, device=pieces.device)
    KERNELS.fc_back[(programs, blocks(size.pieces, size.piece_block))](
        grad_maps, pieces, fc_weight, grad_pieces, parts, pixels, size.height, size.width, size.channels, size.pieces,
        size.maps, *shift, *pieces.stride(), *fc_weight.stride(), each,
        BP=size.rows_pixels, BD=size.rows_channels, DB=size.channel_blocks, PB=size.piece_block, TP=size.padded_maps,
    )  # fmt: skip
    grad_fc = parts.sum(0)  # (T, P + 1)
    return (
        grad_pieces,
        grad_fc[:, :-1].to(fc_weight.dtype, memory_format=torch.contiguous_format, copy=True),
        None if fc_bias is None else grad_fc[:, -1].to(fc_bias.dtype, copy=True),
        grad_kernels.to(kernels.dtype),
    )


def make_maps(size: Sizes, pieces: Tensor, fc_weight: Tensor, fc_bias: Tensor | None, shift: tuple[int, int]) -> Tensor:
    """f, the maps that fc makes of the pieces: (B, D, H, W, Tp)."""
    maps = pieces.new_empty(size.batch, size.channels, size.height, size.width, size.padded_maps)
    bias = placeholder(fc_bias, fc_weight)
    KERNELS.fc_forward[(size.row_blocks,)](
        pieces, fc_weight, bias, maps, size.batch * size.height * size.width, size.height, size.width, size.channels,
        size.pieces, size.maps, *shift, *pieces.stride(), *fc_weight.stride(), bias.stride(0),
        HAS_BIAS=fc_bias is not None, BP=size.rows_pixels, BD=size.rows_channels, DB=size.channel_blocks,
        PB=min(size.piece_block, 32), TP=size.padded_maps,
    )  # fmt: skip
    return maps


def packed(size: Sizes, kernels: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernels as each tap's matrix for each channel, zero beyond T and M: (D, ky·kx, Tp, Mp)."""
    taps = size.taps_y * size.taps_x
    shape = (size.channels, taps, size.padded_maps, size.padded_outputs)
    matrices = torch.zeros(shape, dtype=dtype, device=kernels.device)
    by_channel = kernels.reshape(size.channels, size.outputs, size.maps, taps)
    matrices[:, :, : size.maps, : size.outputs] = by_channel.permute(0, 3, 2, 1)
    return matrices


def kernels_gradient(
    size: Sizes, grad: Tensor, maps: Tensor, stride: int, dilation: int, shift: tuple[int, int]
) -> Tensor:
    """The gradient of the kernels, (M·D, T, ky, kx) in float32: programs' own parts, then their sum."""
    # several taps of a kernel's row side by side make one tall product
    together = min(power_of_two(size.taps_x), max(1, 128 // size.padded_maps))
    block = 64
    pixel_blocks = blocks(size.batch * size.out_height * size.out_width, block)
    # every channel and row of taps has programs of its own, so few parts of the pixels are enough
    each = share(pixel_blocks, least=4, most=max(1, 2048 // (size.channels * size.taps_y)))
    programs = blocks(pixel_blocks, each)
    shape = (programs, size.channels, size.taps_y, size.taps_x, size.maps, size.outputs)
    parts = torch.empty(shape, dtype=torch.float32, device=grad.device)
    grid = (
        size.channels * programs,
        size.taps_y * blocks(size.taps_x, together),
        blocks(size.outputs, size.output_block),
    )
    KERNELS.kernels_back[grid](
        grad, maps, parts, size.batch * size.out_height * size.out_width, size.height, size.width, size.out_height,
        size.out_width, size.channels, size.outputs, size.maps, stride, dilation, *shift, *grad.stride(), each,
        KY=size.taps_y, KX=size.taps_x, TG=together, BLOCK=block, TP=size.padded_maps, MB=size.output_block,
    )  # fmt: skip
    summed = parts.sum(0)  # (D, ky, kx, T, M)
    return summed.permute(0, 4, 3, 1, 2).reshape(-1, size.maps, size.taps_y, size.taps_x)
