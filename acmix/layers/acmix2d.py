"""ACmix as a drop-in for a convolution: local attention and a convolution path on one projection.

Shapes: B batch · H, W map, of one row where the input is a sequence · Ho, Wo of the output
    N heads · D channels a head · C = N·D output channels · I input channels
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from acmix import ops
from acmix.layers.checks import check_numbers, choose_heads
from acmix.layers.conv_path import ConvPath
from acmix.layers.fold import FoldedACmix
from acmix.layers.graphs import whole
from acmix.layers.leaving import acmix_map
from acmix.layers.maps import arranged_as, check_shape, evenly_spaced, projected_pixels, sides_of
from acmix.layers.mixing import Mixed, Mixing, mixed
from acmix.layers.plain import has_plain_weights, is_plain, is_untouched
from acmix.ops.both_paths import both_paths
from acmix.ops.leaving import any_size, compact, leaves_pytorch
from acmix.ops.local_attention import checked
from acmix.ops.local_attention.spec import Arguments


class ACmixLayer(Mixed):
    """What ACmix2d and ACmix1d have in common: see there."""

    # names of the sides of the input, and a 1×1 convolution over them
    sides: str
    projection: type[nn.Conv1d] | type[nn.Conv2d]

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
        self.query = self.projection(in_channels, out_channels, 1)
        self.key = self.projection(in_channels, out_channels, 1)
        self.value = self.projection(in_channels, out_channels, 1)
        if self.has_attention:
            self.position = self.projection(len(self.sides), self.head_dim, 1)
        geometry = dict(conv_size=self.on_a_map(conv_size), bias=False, stride=stride, dilation=dilation)
        self.add_path(mixing, heads, self.head_dim, **geometry)

    def on_a_map(self, size: int) -> int | tuple[int, int]:
        """A size that operators take: that of a neighbourhood or a kernel."""
        return size if len(self.sides) == 2 else (1, size)

    def projected(self, x: Tensor) -> Tensor:
        """(B, I, H, W) or (B, I, L) -> (B, H·W, 3·C), adjacent channels."""
        projections = (self.query, self.key, self.value)
        if all(is_plain(each, self.projection) and is_product(each, self.in_channels) for each in projections):
            return self.project_input(x)
        maps = torch.cat([each(x) for each in projections], 1)  # (B, 3·C, H, W) or (B, 3·C, L)
        return compact(maps.flatten(2).transpose(1, 2))

    def project_input(self, x: Tensor) -> Tensor:
        """`projected` by one product with the weights of all three."""
        raise NotImplementedError

    def positions(self, qkv: Tensor) -> Tensor:
        """p of every pixel, (H, W, D), for qkv of (B, H, W, 3, N, D)."""
        raise NotImplementedError

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Those of the three projections as one: (3·C, I, 1, …) and (3·C,)."""
        projections = (self.query, self.key, self.value)
        weight = torch.cat([each.weight for each in projections])
        return weight, torch.cat([each.bias for each in projections])  # type: ignore[misc]

    @whole
    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, Ho, Wo) in the memory format of x, Ho = ceil(H/stride); or (B, I, L) -> (B, C, Lo)."""
        check_shape(x, self.in_channels, self.sides)
        if self.leaves_by_few_nodes():
            with any_size():
                return self.leaving(x)
        # not `unflatten`, behind which an ONNX graph no longer knows that H and W may be any
        qkv = self.projected(x).view(-1, *sides_of(x), 3, self.heads, self.head_dim)  # (B, H, W, 3, N, D)
        rate_attention, rate_conv = self.rates()
        if self.has_own_path() and type(self).attend is ACmixLayer.attend:
            assert self.conv_path is not None
            path = self.conv_path.arguments(qkv.flatten(3, 4), rate=rate_conv)
            attention, conv = both_paths("local_attention", self.arguments(qkv), path)
            return arranged_as(x, mixed(attention, conv, rate_attention))
        conv = None if self.conv_path is None else self.conv_path(qkv.flatten(3, 4), rate=rate_conv)  # (B, Ho, Wo, C)
        out = mixed(self.attend(qkv), conv, rate_attention) if self.has_attention else conv  # (B, Ho, Wo, C)
        assert out is not None
        return arranged_as(x, out)

    def leaves_by_few_nodes(self) -> bool:
        """Whether a graph that leaves PyTorch is made, and `leaving` knows all that the layer computes."""
        if not leaves_pytorch() or len(self.sides) != 2:
            return False
        return self.conv_path is None or (type(self.conv_path) is ConvPath and is_untouched(self.conv_path))

    def leaving(self, x: Tensor) -> Tensor:
        """`forward` in few nodes of PyTorch's own."""
        rate_attention, rate_conv = self.rates()
        return acmix_map(
            self.query(x),
            self.key(x),
            self.value(x),
            self.position if self.has_attention else None,
            None if self.conv_path is None else self.conv_path.kernels_of_pieces(rate_conv),
            heads=self.heads,
            head_dim=self.head_dim,
            size=self.attention_size,
            stride=self.stride,
            dilation=self.dilation,
            rate=rate_attention,
        )

    def attend(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3, N, D) -> (B, Ho, Wo, C)."""
        size = self.on_a_map(self.attention_size)
        return ops.local_attention(qkv, self.positions(qkv), size=size, stride=self.stride, dilation=self.dilation)

    def arguments(self, qkv: Tensor) -> Arguments:
        """Those of the attention's operator."""
        size = self.on_a_map(self.attention_size)
        return checked(qkv, self.positions(qkv), size, self.stride, self.dilation)

    def folded(self, gate: float = 1.0) -> FoldedACmix:
        return FoldedACmix(self, gate)

    def rates_fit(self) -> bool:
        read = {self.query: self.in_channels, self.key: self.in_channels, self.value: self.in_channels}
        read[self.position] = len(self.sides)
        return all(has_plain_weights(each, self.projection) and is_product(each, count) for each, count in read.items())

    def gmacs_of(self, *sides: int) -> float:
        """10⁹ multiply-adds for one input of those sides in pixels: what torch's FlopCounterMode counts, halved."""
        pixels, out_pixels = math.prod(sides), math.prod((side - 1) // self.stride + 1 for side in sides)
        count = pixels * 3 * self.in_channels * self.out_channels
        if self.has_attention:
            neighbours = self.attention_size ** len(sides)
            count += pixels * len(sides) * self.head_dim + 2 * out_pixels * neighbours * self.out_channels
        if self.conv_path is not None:
            count += self.conv_path.multiply_adds(pixels, out_pixels)
        return count / 1e9

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, attention_size={self.attention_size}, "
            f"conv_size={self.conv_size}, stride={self.stride}, dilation={self.dilation}"
        )


def is_product(conv: nn.Conv1d | nn.Conv2d, channels: int) -> bool:
    """Whether a convolution is a product with a matrix of so many columns, and a bias: a 1×1 one and nothing more."""
    one, none = (1,) * len(conv.kernel_size), (0,) * len(conv.kernel_size)
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.groups, conv.in_channels)
    return geometry == (one, one, none, 1, channels) and conv.bias is not None


class ACmix2d(ACmixLayer):
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
    sides = "HW"
    projection = nn.Conv2d

    def project_input(self, x: Tensor) -> Tensor:
        weight, bias = self.weight_and_bias()
        return projected_pixels(x, weight.flatten(1), bias)  # (B, H·W, 3·C)

    def gmacs(self, height: int, width: int) -> float:
        """10⁹ multiply-adds for one input map of height × width pixels: what torch's FlopCounterMode counts, halved."""
        return self.gmacs_of(height, width)

    def positions(self, qkv: Tensor) -> Tensor:
        height, width = qkv.shape[1:3]
        plain = is_plain(self.position, nn.Conv2d) and is_product(self.position, 2)
        like = self.position.weight if plain else qkv
        if plain:
            assert self.position.bias is not None
            # rounded once, as a product is
            wide = torch.promote_types(like.dtype, torch.float32)
            weight, bias = like.to(wide).flatten(1), self.position.bias.to(wide)
            # p is a sum of one part by row and one by column
            by_row = torch.addcmul(bias, evenly_spaced(height, weight)[:, None], weight[:, 1])  # (H, D)
            by_column = evenly_spaced(width, weight)[:, None] * weight[:, 0]  # (W, D)
            return (by_row[:, None] + by_column).to(like.dtype)  # (H, W, D)
        x, y = evenly_spaced(width, like), evenly_spaced(height, like)[:, None]
        place = torch.stack([x.expand(height, width), y.expand(height, width)])
        return compact(self.position(place[None])[0].permute(1, 2, 0))
