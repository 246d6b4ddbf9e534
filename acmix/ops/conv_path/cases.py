"""Calls of the convolution path: odd ones for tests.

Shapes: B batch · H, W map · N heads · D channels a head · P pieces of D channels · T = k² maps
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acmix.ops.cases import finish
from acmix.ops.conv_path import conv_path


@dataclass(frozen=True)
class Case:
    """One call of `acmix.ops.conv_path`.

    Args:
        name: what is special about it.
        size: (B, H, W).
        heads: N, which is also the number of outputs for each of the D channels.
        head_dim: D.
        pieces: P; 3·N where None.
        conv_size: k.
        bias: whether fc has one.
        layout: how the pieces lie in memory; see `acmix.ops.cases.laid_out`.
    """

    name: str
    size: tuple[int, int, int] = (2, 6, 7)
    heads: int = 2
    head_dim: int = 4
    pieces: int | None = None
    conv_size: int = 3
    stride: int = 1
    dilation: int = 1
    shift: tuple[int, int] = (0, 0)
    bias: bool = True
    layout: str = "contiguous"

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        return dict(stride=self.stride, dilation=self.dilation, shift=self.shift)

    def tensors(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """The arguments by name, of about unit size, that ask for gradients; the same numbers in every dtype."""
        draw = torch.Generator().manual_seed(seed)
        pieces = 3 * self.heads if self.pieces is None else self.pieces
        taps = self.conv_size**2
        made = {
            "pieces": torch.randn(*self.size, pieces, self.head_dim, generator=draw),
            "fc_weight": torch.randn(taps, pieces, generator=draw) / math.sqrt(pieces),
            "fc_bias": torch.randn(taps, generator=draw),
            "kernels": torch.randn(self.heads * self.head_dim, taps, self.conv_size, self.conv_size, generator=draw)
            / taps,
        }
        if not self.bias:
            del made["fc_bias"]
        return finish(made, "pieces", self.layout, dtype, device)

    def call(self, tensors: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        return conv_path(**{"fc_bias": None, **tensors}, **self.settings)


CASES = (
    Case("as Swin has it"),
    Case("shifted", shift=(3, 2)),
    Case("shifted along one side", shift=(0, 2)),
    Case("shift beyond the map", size=(1, 2, 3), shift=(3, 4)),
    Case("negative shift", shift=(-2, 1)),
    Case("stride 2, even and odd side", stride=2),
    Case("stride 2, one pixel", size=(2, 1, 1), stride=2),
    Case("stride 3", size=(1, 7, 8), stride=3),
    Case("dilation 2", dilation=2),
    Case("dilation 2 with stride 2", size=(1, 9, 8), dilation=2, stride=2),
    Case("dilation beyond the map", size=(1, 3, 2), dilation=4),
    Case("kernel of 1", conv_size=1),
    Case("kernel of 5 on a rectangle", size=(1, 5, 8), conv_size=5, head_dim=2),
    Case("kernel of 5, larger than the map", size=(1, 2, 3), conv_size=5, head_dim=2),
    Case("one head", heads=1),
    Case("24 heads", size=(1, 3, 4), heads=24, head_dim=2),
    Case("odd channels", head_dim=5, heads=3),
    Case("one channel a head", head_dim=1),
    Case("33 channels a head", size=(1, 2, 3), head_dim=33, heads=1),
    Case("SAN's pieces", heads=4, head_dim=3, pieces=6, bias=False),
    Case("one piece", heads=3, pieces=1),
    Case("no bias", bias=False),
    Case("no bias, shifted", bias=False, shift=(1, 1)),
    Case("one row", size=(2, 1, 9)),
    Case("one column, shifted", size=(2, 9, 1), shift=(4, 0)),
    Case("one pixel", size=(1, 1, 1)),
    Case("one image", size=(1, 6, 7)),
    Case("no image", size=(0, 6, 7)),
    Case("no image, stride 2, shiftless", size=(0, 5, 4), stride=2, bias=False),
    Case("prime sides", size=(1, 11, 13), head_dim=3),
    Case("channels first in memory", layout="planes"),
    Case("channels first in memory, shifted", layout="planes", shift=(2, 3)),
    Case("part of something larger", layout="slice"),
    Case("part of something larger, stride 2", layout="slice", stride=2),
    Case("one image for the whole batch", layout="expanded", shift=(1, 2)),
)
