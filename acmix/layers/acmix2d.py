"""ACmix as a drop-in for a convolution: local attention and a convolution path on one projection.

Shapes: B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D output channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.mixing import Mixed, Mixing

# No neighbourhood is meant to be as wide as this; a number of channels in the wrong place is.
WIDEST_NEIGHBOURHOOD = 63


class ACmix2d(Mixed):
    """Puts local attention and a k×k convolution of the same q, k and v in the place of a 3×3 convolution.

        out_i = α · softmax_j(D^-½·q_i·(k_j − p_j))·v_j + β · conv path(q, k, v)_i        p = position(x, y)

    x and y run from −1 to 1 over the map. Both rates start at 0.5. All maps of at least one pixel work.

    Args:
        in_channels: channels of the input.
        out_channels: C, channels of the output.
        heads: N, a divisor of C; "auto" takes the largest of 8, 7, … 1 that leaves 8 channels a head, if any does.
        attention_size: K, odd; pixels on the side of a pixel's neighbourhood.
        conv_size: k, odd; side of the convolution.
        stride: pixels between two outputs.
        dilation: pixels between two neighbours, and between two taps.
        mixing: of the two paths.

    Raises:
        ValueError: a number that cannot work, with those that can.

    Source: ACmix, section 4; the ResNet form of the released code.
    """

    # how its weights came about; `replace_conv` also makes layers that start as "transferred"
    start = "drawn"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int | str = 4,
        attention_size: int = 7,
        conv_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        check_numbers(in_channels, out_channels, attention_size, conv_size, stride, dilation)
        heads = choose_heads(out_channels, heads)
        super().__init__(mixing)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.head_dim = heads, out_channels // heads
        self.attention_size, self.conv_size = attention_size, conv_size
        self.stride, self.dilation = stride, dilation
        self.query = nn.Conv2d(in_channels, out_channels, 1)
        self.key = nn.Conv2d(in_channels, out_channels, 1)
        self.value = nn.Conv2d(in_channels, out_channels, 1)
        if self.has_attention:
            self.position = nn.Conv2d(2, self.head_dim, 1)
        geometry = dict(conv_size=conv_size, bias=False, stride=stride, dilation=dilation)
        self.add_path(mixing, heads, self.head_dim, **geometry)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, ceil(H/stride), ceil(W/stride)) in the memory format of the input."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(f"the input has shape {tuple(x.shape)}; expected (B, {self.in_channels}, H, W)")
        projections = (self.query, self.key, self.value)
        weight = torch.cat([each.weight.flatten(1) for each in projections])  # (3·C, in_channels)
        bias = torch.cat([each.bias for each in projections if each.bias is not None])  # (3·C,)
        # a product of matrices gives adjacent channels, which the operators read, whatever the input's memory format
        qkv = F.linear(x.flatten(2).transpose(1, 2), weight, bias)  # (B, H·W, 3·C)
        # not `unflatten`, behind which an ONNX graph no longer knows that H and W may be any
        qkv = qkv.view(-1, *x.shape[2:], 3, self.heads, self.head_dim)  # (B, H, W, 3, N, D)
        rate_attention, rate_conv = self.rates()
        conv = None if self.conv_path is None else self.conv_path(qkv.flatten(3, 4), rate=rate_conv)  # (B, Ho, Wo, C)
        # d-major channels are added to head-major ones index by index: released weights were trained so
        out = self.attend(qkv, conv, rate_attention) if self.has_attention else conv  # (B, Ho, Wo, C)
        assert out is not None
        return out.permute(0, 3, 1, 2).contiguous(memory_format=memory_format_of(x))  # (B, C, Ho, Wo)

    def attend(self, qkv: Tensor, conv: Tensor | None, rate: Tensor | None) -> Tensor:
        """rate · attention + conv, (B, Ho, Wo, C), or the attention alone."""
        attention = ops.local_attention(
            qkv, self.positions(qkv), size=self.attention_size, stride=self.stride, dilation=self.dilation
        )  # (B, Ho, Wo, C)
        return attention if conv is None or rate is None else torch.addcmul(conv, attention, rate)

    def positions(self, qkv: Tensor) -> Tensor:
        """p of every pixel, (H, W, D)."""
        height, width = qkv.shape[1:3]
        weight = self.position.weight
        x = evenly_spaced(width, weight).expand(height, width)
        y = evenly_spaced(height, weight)[:, None].expand(height, width)
        return F.linear(torch.stack([x, y], -1), weight.flatten(1), self.position.bias)  # (H, W, D)

    def gmacs(self, height: int, width: int) -> float:
        """10⁹ multiply-adds for one input map of height × width pixels: what torch's FlopCounterMode counts, halved."""
        pixels = height * width
        out_pixels = ((height - 1) // self.stride + 1) * ((width - 1) // self.stride + 1)
        count = pixels * 3 * self.in_channels * self.out_channels
        if self.has_attention:
            count += pixels * 2 * self.head_dim + 2 * out_pixels * self.attention_size**2 * self.out_channels
        if self.conv_path is not None:
            count += self.conv_path.multiply_adds(pixels, out_pixels)
        return count / 1e9

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, attention_size={self.attention_size}, "
            f"conv_size={self.conv_size}, stride={self.stride}, dilation={self.dilation}"
        )


def evenly_spaced(count: int, like: Tensor) -> Tensor:
    """`torch.linspace(-1, 1, count)` like a tensor; unlike it, an exported graph takes any count."""
    step = torch.arange(count, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return (2 * step / step[-1:].clamp(min=1) - 1).to(like.dtype)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last where the input lies so and not also the plain way, as after a convolution."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def choose_heads(channels: int, heads: int | str) -> int:
    """A number of heads that divides the channels, or an error that lists those that do."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    if heads == "auto":
        return max((n for n in divisors if n <= 8 and channels // n >= 8), default=1)
    if not isinstance(heads, int) or heads not in divisors:
        raise UsageError(f"heads={heads!r} does not divide {channels} channels; use one of {divisors}, or 'auto'")
    return heads


def check_numbers(
    in_channels: int, out_channels: int, attention_size: int, conv_size: int, stride: int, dilation: int
) -> None:
    """Refuses numbers that cannot work, in particular channel counts that slipped into the place of a size."""
    for name, value in {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "attention_size": attention_size,
        "conv_size": conv_size,
        "stride": stride,
        "dilation": dilation,
    }.items():
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name}={value!r}; expected a whole number from 1 up")
    for name, value, usual in (("attention_size", attention_size, 7), ("conv_size", conv_size, 3)):
        if value > WIDEST_NEIGHBOURHOOD:
            raise UsageError(f"{name}={value} looks like a channel count; it is a side in pixels, usually {usual}")
        if value % 2 == 0:
            raise UsageError(
                f"{name}={value}; an odd side is needed, so that it has a middle: {value - 1} or {value + 1}"
            )
