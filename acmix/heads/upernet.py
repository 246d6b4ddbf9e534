"""The head of UPerNet: pyramid pooling on the last map, a pyramid above it, all maps joined; and its auxiliary head.

Shapes: B batch · H, W the finest map · H_i, W_i map i with C_i channels · C channels of the head · K classes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.heads.dense import Classifier, convolution, enlarged
from acmix.ops.leaving import any_size, leaves_pytorch

POOLS = (1, 2, 3, 6)


class UPerNet(nn.Module):
    """Classifies every pixel of the finest of some maps.

        L_n = pooling(F_n),   L_i = relu(norm(conv1x1(F_i))) + up(L_i+1)
        P_n = L_n,            P_i = relu(norm(conv3x3(L_i)))
        logits = conv1x1(dropout(relu(norm(conv3x3(concat_i up(P_i))))))

    Args:
        in_channels: C_i of each map.
        strides: of the maps, the finest first.
        num_classes: K.
        channels: C.
        pools: sides of the maps that the last one is averaged to.
        dropout: the chance of a channel to be left out before the last convolution.

    Source: Unified Perceptual Parsing for Scene Understanding (Xiao et al., ECCV 2018), as in Swin's recipe.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        pools: Sequence[int] = POOLS,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        *finer, last = in_channels
        self.strides = list(strides)
        self.pooling = PyramidPooling(last, channels, pools)
        self.laterals = nn.ModuleList(convolution(each, channels, 1) for each in finer)
        self.convs = nn.ModuleList(convolution(channels, channels, 3) for _ in finer)
        self.fusion = convolution(channels * len(in_channels), channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i), the finest first -> logits (B, K, H, W)."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        above = self.pooling(maps[-1])  # (B, C, H_n, W_n)
        found = [above]
        for i in reversed(range(len(maps) - 1)):
            factor = self.strides[i + 1] // self.strides[i]
            above = self.laterals[i](maps[i]) + enlarged(above, factor, sizes[i])  # (B, C, H_i, W_i)
            found.insert(0, self.convs[i](above))
        finest = [
            enlarged(x, stride // self.strides[0], sizes[0]) for x, stride in zip(found, self.strides, strict=True)
        ]
        return self.classifier(self.fusion(torch.cat(finest, 1)))


class PyramidPooling(nn.Module):
    """Joins a map with its averages over a grid of few fields each.

    Args:
        in_channels: of the map.
        channels: C.
        pools: sides of the grids.

    Source: Pyramid Scene Parsing Network (Zhao et al., CVPR 2017), section 3.2.
    """

    def __init__(self, in_channels: int, channels: int, pools: Sequence[int]) -> None:
        super().__init__()
        self.pools = tuple(pools)
        self.convs = nn.ModuleList(convolution(in_channels, channels, 1) for _ in self.pools)
        self.fusion = convolution(in_channels + len(self.pools) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, H, W)."""
        size = (x.shape[2], x.shape[3])
        fields = [conv(averaged(x, side)) for side, conv in zip(self.pools, self.convs, strict=True)]
        fields = [F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in fields]
        return self.fusion(torch.cat([x, *fields], 1))


def averaged(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): means over the fields of a grid, which overlap where sides do not divide."""
    if not leaves_pytorch():
        return F.adaptive_avg_pool2d(x, side)
    # by sums of products, which take any size: an exporter would unroll the pooling for one, and a matrix product asks
    # whether a side is 1
    with any_size():
        x = (x.unsqueeze(3) * field_means(x, 3, side)).sum(4)  # (B, C, H, side)
        return (x.unsqueeze(2) * field_means(x, 2, side)[:, :, None]).sum(3)  # (B, C, side, side)


def field_means(x: Tensor, dim: int, side: int) -> Tensor:
    """What a mean over each field of a side of a map (B, C, H, W) takes of each pixel: (side, H) or (side, W)."""
    # counted by sums, not by the size itself, which may be open
    line = torch.ones_like(x[0, 0].sum(3 - dim))  # (H,) or (W,)
    place, count = line.cumsum(0) - 1, line.sum()
    field = torch.arange(side, dtype=x.dtype, device=x.device)[:, None]
    first, end = (field * count / side).floor(), ((field + 1) * count / side).ceil()  # (side, 1)
    inside = ((place >= first) & (place < end)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


class FCN(nn.Module):
    """An auxiliary head: one 3×3 convolution and a classifier on a map of the backbone.

    Args:
        in_channels: of the map.
        num_classes: K.
        channels: C.
        dropout: the chance of a channel to be left out before the last convolution.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = convolution(in_channels, channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, K, H, W)."""
        return self.classifier(self.conv(x))
