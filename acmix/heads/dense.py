"""What the heads that label every pixel are made of: a convolution with its norm, enlarging, the last convolution.

Shapes: B batch · H, W map · C channels · K classes
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from acmix.ops.leaving import fresh, leaves_pytorch


def convolution(channels: int, out_channels: int, side: int) -> nn.Module:
    """A convolution that keeps the map's size, batch norm and ReLU."""
    return Conv2dNormActivation(channels, out_channels, side)


class Classifier(nn.Module):
    """Classes of every pixel: dropout of whole channels, then a 1×1 convolution.

    Weights are drawn as PyTorch draws them, by the channels. Drawn from a normal of width 0.01, as published heads draw
    them, the classes of a narrow head are so alike that objects are told from ground for a thousand steps and not from
    one another (docs/LOG.md, 2026-11-26).

    Args:
        channels: C.
        num_classes: K.
        dropout: the chance of a channel to be left out.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        return self.conv(self.dropout(x))


def enlarged(x: Tensor, factor: int, size: tuple[Any, Any]) -> Tensor:
    """A map between whose pixels `factor` times as many are interpolated, bilinearly.

    A map of ceil(H/factor) rows covers more than H: what is beyond is cut off, so that every pixel stays in its place.

    Args:
        x: (B, C, H/factor, W/factor), rounded up.
        factor: 1 or more.
        size: (H, W).

    Returns:
        (B, C, H, W).
    """
    if factor > 1:
        rows, columns = x.shape[2] * factor, x.shape[3] * factor
        x = F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)
    return cut(x, size)


def cut(x: Tensor, size: tuple[Any, Any]) -> Tensor:
    """The first rows and columns of a map, (B, C, H, W)."""
    if not leaves_pytorch():
        return x[:, :, : size[0], : size[1]]
    # by index: an open size is then compared with none
    for dim, side in zip((2, 3), size, strict=True):
        x = x.index_select(dim, torch.arange(side, device=x.device))
    return x


class MapNorm(LayerNorm2d):
    """A LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        # not moved in memory, but in a graph that leaves PyTorch, which would fix sizes by the order in memory
        x = fresh(x.permute(0, 2, 3, 1))  # (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return fresh(x.permute(0, 3, 1, 2))
