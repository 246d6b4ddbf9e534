"""The convolution path on a GPU: no map f ever reaches memory, and all products are on tensor cores.

Forward, fc and its bias are folded into the kernels, W[d, (tap, p), m] = Σ_t fc[t, p]·S[d·M+m, t, tap], and the output
is one product a channel of (pixels × taps·P) by (taps·P × M). Backward, a pixel's maps are asked for only where they
lie: f is made again from the pixel's own pieces, and its gradient from the outputs around it. One pass gives the
gradients of pieces and fc, another those of the kernels. README.md of `acmix.ops` weighs this against other ways.

Shapes
    B batch · H, W map · Ho, Wo of the output · P pieces of D channels · T maps · M outputs for each of the D
    Tp, Mp: T and M rounded up to a power of two; what is beyond is zero
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acmix.ops import triton_launch
from acmix.ops.conv_path.reference import map_behind_tokens, with_added
from acmix.ops.conv_path.spec import Arguments, output, tokens_before
from acmix.ops.triton_launch import Kernels, blocks, placeholder, power_of_two, rolled_by, share

KERNELS = Kernels("acmix.ops.conv_path.triton_kernels")
# pieces that a product takes at once
PIECES_BLOCK = 16


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
    # channels that every program takes at once
    channels_block: int
    # numbers of a product's result that a program keeps in registers
    numbers: int

    @classmethod
    def of(cls, pieces: Tensor, kernels: Tensor, stride: int) -> Sizes:
        batch, height, width, count, channels = pieces.shape
        maps, taps_y, taps_x = kernels.shape[1:]
        outputs = kernels.shape[0] // channels
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
            padded_outputs=power_of_two(outputs, least=8),
            channels_block=power_of_two(channels, most=8 if pieces.dtype == torch.float32 else 16),
            # without tensor cores (float32) a product keeps its factors in registers too
            numbers=2048 if pieces.dtype == torch.float32 else 8192,
        )

    @property
    def taps(self) -> int:
        """Of a kernel."""
        return self.taps_y * self.taps_x

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels."""
        return blocks(self.channels, self.channels_block)

    @property
    def output_block(self) -> int:
        """How many of the M outputs a product takes at once."""
        return min(self.padded_outputs, 32)

    def pixels_block(self, columns: int) -> int:
        """Pixels of a program whose products have so many columns for each pixel and channel."""
        return min(32, max(16, self.numbers // (self.channels_block * columns)))


def forward(arguments: Arguments) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *_ = arguments
    size = Sizes.of(pieces, kernels, stride)
    out = output(arguments)
    plus = None if arguments.plus is None else arguments.plus.contiguous()
    plus_bias = arguments.plus_bias
    tokens = tokens_before(out, arguments)
    if plus is not None and tokens:
        # to which the path adds nothing
        out[:, :tokens] = with_added(plus[:, :tokens], None, plus_bias)
    if not pieces.numel():
        return out
    shift = rolled_by(shift, size.height, size.width)
    # the bias of fc is one more piece, of ones, which ends at the border of the map
    columns = size.pieces + (fc_bias is not None)
    pixels = size.batch * size.out_height * size.out_width
    block = size.pixels_block(size.output_block)
    grid = (size.channel_blocks * blocks(pixels, block), blocks(size.outputs, size.output_block))
    KERNELS.forward[grid](
        pieces, folded(size, fc_weight, fc_bias, kernels, pieces.dtype), placeholder(plus, pieces),
        placeholder(plus_bias, fc_weight), out, pixels, size.height, size.width, size.out_height, size.out_width,
        size.channels, size.pieces, size.outputs, stride, dilation, *shift, tokens, *pieces.stride(),
        1 if plus_bias is None else plus_bias.stride(0), HAS_BIAS=fc_bias is not None, HAS_PLUS=plus is not None,
        HAS_PLUS_BIAS=plus_bias is not None, WIDE=is_wide(pieces), KY=size.taps_y, KX=size.taps_x, TAPS=size.taps,
        COLUMNS=columns, BP=block, BD=size.channels_block, KB=16, MP=size.padded_outputs, MB=size.output_block,
    )  # fmt: skip
    return out


def is_wide(data: Tensor) -> bool:
    """Whether an image's numbers lie further apart than 32 bits count."""
    return sum((side - 1) * abs(step) for side, step in zip(data.shape[1:], data.stride()[1:], strict=True)) >= 1 << 31


def folded(size: Sizes, fc_weight: Tensor, fc_bias: Tensor | None, kernels: Tensor, dtype: torch.dtype) -> Tensor:
    """fc and its bias folded into the kernels: (D, taps·(P, and 1 for the bias), Mp), zero beyond M."""
    columns = size.pieces + (fc_bias is not None)
    shape = (size.channels, size.taps * columns, size.padded_outputs)
    made = torch.empty(shape, dtype=dtype, device=kernels.device)
    bias = placeholder(fc_bias, fc_weight)
    block = power_of_two(columns, least=16, most=32)
    KERNELS.fold[(size.channels, size.taps, blocks(columns, block))](
        fc_weight, *fc_weight.stride(), bias, bias.stride(0), kernels.contiguous(), made, size.pieces, size.maps,
        size.outputs, HAS_BIAS=fc_bias is not None, TAPS=size.taps, COLUMNS=columns, PB=block, TP=size.padded_maps,
        MP=size.padded_outputs,
    )  # fmt: skip
    return made


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (None where there is none) and kernels."""
    pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *_ = arguments
    grad = map_behind_tokens(grad, arguments)
    size = Sizes.of(pieces, kernels, stride)
    grad_pieces = torch.empty(pieces.shape, dtype=pieces.dtype, device=pieces.device)
    if not pieces.numel():
        no_bias = None if fc_bias is None else torch.zeros_like(fc_bias)
        return grad_pieces, torch.zeros_like(fc_weight), no_bias, kernels.new_zeros(kernels.shape)
    pixels = size.batch * size.height * size.width
    sizes = (pixels, size.height, size.width, size.out_height, size.out_width, size.channels, size.pieces, size.maps)
    sizes = (*sizes, size.outputs, dilation, *rolled_by(shift, size.height, size.width))
    steps = (*pieces.stride(), *grad.stride(), *fc_weight.stride())
    settings = dict(
        WIDE=is_wide(pieces) or is_wide(grad), STRIDE=stride, KY=size.taps_y, KX=size.taps_x, OUTPUTS=size.outputs,
        PB=PIECES_BLOCK, TP=size.padded_maps,
    )  # fmt: skip

    block = 16
    rows = blocks(pixels, block) * size.channel_blocks
    each = share(rows, least=4)
    programs = blocks(rows, each)
    # every program's own part of fc's gradient; its last column is the bias
    parts = torch.empty(programs, size.maps, size.pieces + 1, dtype=torch.float32, device=pieces.device)
    KERNELS.pieces_back[(programs, blocks(size.pieces, PIECES_BLOCK))](
        grad, matrices(size, kernels, pieces.dtype), pieces, fc_weight, grad_pieces, parts, *sizes, *steps, each,
        KB=16, BP=block, BD=size.channels_block, **settings,
    )  # fmt: skip
    grad_fc = parts.sum(0)  # (T, P + 1)

    return (
        grad_pieces,
        grad_fc[:, :-1].to(fc_weight.dtype, memory_format=torch.contiguous_format, copy=True),
        None if fc_bias is None else grad_fc[:, -1].to(fc_bias.dtype, copy=True),
        kernels_gradient(size, grad, arguments, sizes, steps, settings).to(kernels.dtype),
    )


def matrices(size: Sizes, kernels: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernels as a matrix for each channel, zero beyond T: (D, taps·M, Tp)."""
    made = torch.zeros(size.channels, size.taps, size.outputs, size.padded_maps, dtype=dtype, device=kernels.device)
    by_channel = kernels.reshape(size.channels, size.outputs, size.maps, size.taps)
    made[..., : size.maps] = by_channel.permute(0, 3, 1, 2)
    return made


def kernels_gradient(
    size: Sizes, grad: Tensor, arguments: Arguments, sizes: tuple, steps: tuple, settings: dict[str, int]
) -> Tensor:
    """The gradient of the kernels, (M·D, T, ky, kx) in float32: programs' own parts, then their sum."""
    pieces, fc_weight, fc_bias, *_ = arguments
    columns = size.taps * size.outputs
    column_block = block = 16
    # more channels would leave one program a multiprocessor
    channels_block = min(8, size.channels_block)
    channel_blocks = blocks(size.channels, channels_block)
    pixel_blocks = blocks(size.batch * size.height * size.width, block)
    # every block of channels and columns has programs of its own, so few parts of the pixels are enough
    beside = channel_blocks * blocks(columns, column_block)
    each = share(pixel_blocks, least=4, most=max(1, 1024 // beside))
    programs = blocks(pixel_blocks, each)
    parts = torch.empty(programs, size.channels, size.maps, columns, dtype=torch.float32, device=grad.device)
    bias = placeholder(fc_bias, fc_weight)
    KERNELS.kernels_back[(channel_blocks * programs, blocks(columns, column_block))](
        grad, pieces, fc_weight, bias, parts, *sizes, *steps, bias.stride(0), each,
        HAS_BIAS=fc_bias is not None, KB=column_block, BP=block, BD=channels_block, **settings,
    )  # fmt: skip
    summed = parts.sum(0).view(size.channels, size.maps, size.taps, size.outputs)
    return summed.permute(0, 3, 1, 2).reshape(-1, size.maps, size.taps_y, size.taps_x)
