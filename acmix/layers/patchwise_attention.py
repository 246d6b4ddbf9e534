"""SAN's attentions, patchwise and pairwise, alone or mixed with a convolution path.

Shapes: B batch · H, W map · C channels · R = C/16 · V = C/4 channels of values · K side of a neighbourhood
    O = K² offsets · G = V/share groups of channels that have their weights in common
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.foldable import exact, rounded, twin
from acmix.layers.graphs import whole
from acmix.layers.maps import arranged_as, evenly_spaced
from acmix.layers.mixing import Mixed, Mixing, fits_into_values, mixed
from acmix.layers.plain import has_plain_weights, may_overwrite
from acmix.ops.leaving import around, fresh, gathered, leaves_pytorch, unflatten
from acmix.ops.neighbours import neighbours

# pieces of R channels that q, k and v hold together: one, one and four; and as many outputs as v has
PIECES, OUTPUTS = 6, 4


class VectorAttention(Mixed):
    """Weighs neighbours channel group by channel group, and adds a convolution of the same q, k and v.

        out_i = α · Σ_j w_ij·v_j + β · conv path(q, k, v)_i        j in the K×K pixels around i, mirrored at the border

    How w comes from q and k is what the two kinds below differ in. The convolution path reads six pieces of R channels:
    q, k, and the four that v has.

    Args:
        channels: C, of the map that comes in; a multiple of 4·share and of 16.
        size: K, odd.
        share: channels with the same weights.
        mixing: of the two paths; None for attention alone.

    Source: SAN (CVPR 2020); ACmix, table 2. The authors never released this form: its six pieces are our reading.
    """

    def __init__(
        self,
        channels: int,
        size: int = 7,
        *,
        share: int = 8,
        mixing: Mixing | None = Mixing(),  # noqa: B008  frozen
    ) -> None:
        if channels % 16 or channels % (4 * share):
            raise UsageError(
                f"{channels} channels; expected a multiple of 16 and of {4 * share}, 4 times share={share}"
            )
        if size < 1 or size % 2 == 0:
            raise UsageError(f"size={size}; expected an odd side")
        super().__init__(mixing)
        self.width, self.size, self.groups = channels // 16, size, channels // 4 // share
        self.qkv = nn.Linear(channels, PIECES * self.width)
        if self.has_attention:
            self.add_weighing()
        self.add_path(mixing, OUTPUTS, self.width, pieces=PIECES, bias=False)

    def add_weighing(self) -> None:
        """Makes the parameters that turn q and k into weights."""
        raise NotImplementedError

    def weigh(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, H, W, R) each -> (B, H, W, O, G)."""
        raise NotImplementedError

    def neighbourhoods(self, key: Tensor) -> Tensor:
        """(B, H, W, …) -> (B, H, W, O, …) by one gather, in few nodes, for a graph that leaves PyTorch."""
        pixel = around((key.shape[1], key.shape[2]), (self.size, self.size), 1, 1, key.device)
        return gathered(key, pixel)

    @whole
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, V, H, W) in the memory format of the input."""
        rate_attention, rate_conv = self.rates()
        qkv = self.qkv(fresh(x.permute(0, 2, 3, 1)))  # (B, H, W, 6·R)
        conv = None
        if self.conv_path is not None:
            conv = self.conv_path(unflatten(qkv, 3, (PIECES, self.width)), rate=rate_conv)  # (B, H, W, V)
        out = conv
        if self.has_attention:
            query, key, value = qkv.split([self.width, self.width, OUTPUTS * self.width], 3)
            out = ops.patchwise_attention(value, self.weigh(query, key), size=self.size)  # (B, H, W, V)
            out = mixed(out, conv, rate_attention)
        assert out is not None
        return arranged_as(x, out)

    def folded(self) -> VectorAttention:
        of_attention, of_conv = self.rate_numbers()
        assert self.conv_path is not None
        if not fits_into_values(of_attention):
            layer = twin(self)
            layer.conv_path = self.conv_path.folded()
            return layer
        layer, qkv = self.without_rates(), self.qkv
        weight, bias = exact(qkv.weight), exact(qkv.bias)  # (6·R, C), (6·R,); v has the last of the pieces
        of_values = slice(-OUTPUTS * self.width, None)
        weight[of_values] *= of_attention
        bias[of_values] *= of_attention
        layer.qkv = nn.Linear(qkv.in_features, qkv.out_features, device="meta")
        layer.qkv.weight, layer.qkv.bias = rounded(weight, qkv.weight), rounded(bias, qkv.bias)
        layer.conv_path = self.conv_path.folded(of_conv, of_attention)
        return layer

    def rates_fit(self) -> bool:
        return has_plain_weights(self.qkv, nn.Linear)

    def extra_repr(self) -> str:
        return f"{16 * self.width}, size={self.size}, groups={self.groups}"


class PatchwiseAttention(VectorAttention):
    """Makes the weights of a whole neighbourhood from q_i and all its k_j at once.

    w_i = W₂·relu(norm(W₁·relu(norm([q_i, k_j for j around i]))))
    """

    def add_weighing(self) -> None:
        inner = self.width * (1 + self.size**2)
        self.norm1, self.norm2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(self.groups)
        self.reduce = nn.Linear(inner, self.groups, bias=False)
        self.expand = nn.Linear(self.groups, self.size**2 * self.groups)

    def weigh(self, query: Tensor, key: Tensor) -> Tensor:
        if leaves_pytorch():
            near = [self.neighbourhoods(key).flatten(3)]  # (B, H, W, O·R)
        else:
            near = neighbours(key, (self.size, self.size))
        inner = torch.cat([query, *near], 3)  # (B, H, W, R·(1 + O))
        inner = F.relu(normed(self.norm1, inner), inplace=may_overwrite(self.norm1))
        inner = F.relu(normed(self.norm2, self.reduce(inner)), inplace=may_overwrite(self.norm2))  # (B, H, W, G)
        return unflatten(self.expand(inner), 3, (-1, self.groups))  # (B, H, W, O, G)


class PairwiseAttention(VectorAttention):
    """Makes each weight from one pair of pixels, and normalises over the neighbourhood.

    w_ij = softmax_j(W₂·relu(norm(W₁·relu(norm([q_i − k_j, p_i − p_j])))))        p = position(x, y)
    """

    def add_weighing(self) -> None:
        inner = self.width + 2
        self.position = nn.Linear(2, 2)
        self.norm1, self.norm2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(self.width)
        self.reduce = nn.Linear(inner, self.width, bias=False)
        self.expand = nn.Linear(self.width, self.groups)

    def weigh(self, query: Tensor, key: Tensor) -> Tensor:
        height, width = query.shape[1:3]
        x, y = evenly_spaced(width, query).expand(height, width), evenly_spaced(height, query)[:, None]
        place = self.position(torch.stack([x, y.expand(height, width)], -1))[None].expand(query.shape[0], -1, -1, -1)
        query, key = torch.cat([query, place], 3), torch.cat([key, place], 3)  # (B, H, W, R + 2)
        if leaves_pytorch():
            pairs = query[:, :, :, None] - self.neighbourhoods(key)  # (B, H, W, O, R + 2)
        else:
            pairs = torch.stack([query - each for each in neighbours(key, (self.size, self.size))], 3)
        pairs = pairs.flatten(2, 3)  # (B, H, W·O, R + 2)
        pairs = F.relu(normed(self.norm1, pairs), inplace=may_overwrite(self.norm1))
        pairs = F.relu(normed(self.norm2, self.reduce(pairs)), inplace=may_overwrite(self.norm2))
        logits = unflatten(self.expand(pairs), 2, (-1, self.size**2))  # (B, H, W, O, G)
        return logits.softmax(3)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm over channels that stand last: (B, H, W, C) -> the same."""
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
