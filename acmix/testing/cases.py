"""One table of cases for operators: the tests of every implementation and the benchmarks take theirs from here.

Shapes: B batch · H, W map · N heads · D channels a head · P pieces of D channels · T = k² maps
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acmix import ops


@dataclass(frozen=True)
class ConvCase:
    """One call of `acmix.ops.conv_path`.

    Args:
        name: what is special about it.
        size: (B, H, W).
        heads: N, which is also the number of outputs for each of the D channels.
        head_dim: D.
        pieces: P; 3·N where None.
        conv_size: k.
        bias: whether fc has one.
        layout: how the pieces lie in memory; see `laid_out`.
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
        return ops.conv_path(**{"fc_bias": None, **tensors}, **self.settings)


@dataclass(frozen=True)
class WindowCase:
    """One call of `acmix.ops.window_attention`.

    Args:
        name: what is special about it.
        size: (B, H, W).
        heads: N.
        head_dim: D.
        table: whether there is a relative position bias.
        layout: how q, k and v lie in memory; see `laid_out`.
    """

    name: str
    size: tuple[int, int, int] = (2, 8, 8)
    heads: int = 2
    head_dim: int = 4
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (0, 0)
    scale: float | None = None
    table: bool = True
    layout: str = "contiguous"

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        return dict(window=self.window, shift=self.shift, scale=self.scale)

    def tensors(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """The arguments by name, of about unit size, that ask for gradients; the same numbers in every dtype."""
        draw = torch.Generator().manual_seed(seed)
        entries = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        made = {
            "qkv": torch.randn(*self.size, 3, self.heads, self.head_dim, generator=draw),
            "bias_table": torch.randn(entries, self.heads, generator=draw),
        }
        if not self.table:
            del made["bias_table"]
        return finish(made, "qkv", self.layout, dtype, device)

    def call(self, tensors: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        return ops.window_attention(**tensors, **self.settings)


Case = ConvCase | WindowCase


def finish(made: dict[str, Tensor], data: str, layout: str, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Casts, moves and lays out, and asks for gradients of what results."""
    moved = {name: tensor.to(device, dtype) for name, tensor in made.items()}
    moved[data] = laid_out(moved[data], layout)
    return {name: tensor.requires_grad_() for name, tensor in moved.items()}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, elsewhere in memory.

    contiguous: as the projection of a map with channels last gives them.
    planes: channels first, as a 1×1 convolution gives them.
    slice: a part of something larger, on all sides, with gaps between numbers.
    expanded: one image for the whole batch, with a step of 0.
    """
    if layout == "contiguous":
        return x
    if layout == "planes":
        return x.movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2))
    if layout == "slice":
        larger = x.new_full((x.shape[0], *(2 * side + 1 for side in x.shape[1:])), float("nan"))
        inner = larger[(slice(None), *(slice(1, None, 2) for _ in x.shape[1:]))]
        return inner.copy_(x)
    assert layout == "expanded", layout
    return x[:1].expand_as(x)


CONV_CASES = (
    ConvCase("as Swin has it"),
    ConvCase("shifted", shift=(3, 2)),
    ConvCase("shifted along one side", shift=(0, 2)),
    ConvCase("shift beyond the map", size=(1, 2, 3), shift=(3, 4)),
    ConvCase("negative shift", shift=(-2, 1)),
    ConvCase("stride 2, even and odd side", stride=2),
    ConvCase("stride 2, one pixel", size=(2, 1, 1), stride=2),
    ConvCase("stride 3", size=(1, 7, 8), stride=3),
    ConvCase("dilation 2", dilation=2),
    ConvCase("dilation 2 with stride 2", size=(1, 9, 8), dilation=2, stride=2),
    ConvCase("dilation beyond the map", size=(1, 3, 2), dilation=4),
    ConvCase("kernel of 1", conv_size=1),
    ConvCase("kernel of 5 on a rectangle", size=(1, 5, 8), conv_size=5, head_dim=2),
    ConvCase("kernel of 5, larger than the map", size=(1, 2, 3), conv_size=5, head_dim=2),
    ConvCase("one head", heads=1),
    ConvCase("24 heads", size=(1, 3, 4), heads=24, head_dim=2),
    ConvCase("odd channels", head_dim=5, heads=3),
    ConvCase("one channel a head", head_dim=1),
    ConvCase("33 channels a head", size=(1, 2, 3), head_dim=33, heads=1),
    ConvCase("SAN's pieces", heads=4, head_dim=3, pieces=6, bias=False),
    ConvCase("one piece", heads=3, pieces=1),
    ConvCase("no bias", bias=False),
    ConvCase("no bias, shifted", bias=False, shift=(1, 1)),
    ConvCase("one row", size=(2, 1, 9)),
    ConvCase("one column, shifted", size=(2, 9, 1), shift=(4, 0)),
    ConvCase("one pixel", size=(1, 1, 1)),
    ConvCase("one image", size=(1, 6, 7)),
    ConvCase("no image", size=(0, 6, 7)),
    ConvCase("no image, stride 2, shiftless", size=(0, 5, 4), stride=2, bias=False),
    ConvCase("prime sides", size=(1, 11, 13), head_dim=3),
    ConvCase("channels first in memory", layout="planes"),
    ConvCase("channels first in memory, shifted", layout="planes", shift=(2, 3)),
    ConvCase("part of something larger", layout="slice"),
    ConvCase("part of something larger, stride 2", layout="slice", stride=2),
    ConvCase("one image for the whole batch", layout="expanded", shift=(1, 2)),
)

WINDOW_CASES = (
    WindowCase("as Swin has it"),
    WindowCase("shifted", shift=(2, 2)),
    WindowCase("shifted on a rectangle", size=(1, 8, 12), shift=(2, 2)),
    WindowCase("shifted along one side", shift=(0, 2)),
    WindowCase("negative shift", shift=(-1, 2)),
    WindowCase("shift as large as the window", shift=(4, 4)),
    WindowCase("map of one window", size=(2, 4, 4)),
    WindowCase("map of one window, shifted", size=(2, 4, 4), shift=(2, 2)),
    WindowCase("one side of one window", size=(1, 4, 8), shift=(0, 2)),
    WindowCase("smaller than the window", size=(1, 3, 2)),
    WindowCase("smaller than the window, shifted", size=(1, 3, 3), shift=(2, 2)),
    WindowCase("smaller than the shift", size=(1, 2, 2), window=(7, 7), shift=(3, 3)),
    WindowCase("one pixel", size=(1, 1, 1), shift=(2, 2)),
    WindowCase("one pixel a window", size=(1, 3, 4), window=(1, 1)),
    WindowCase("no multiple of the window", size=(1, 7, 9)),
    WindowCase("no multiple of the window, shifted", size=(1, 7, 9), shift=(2, 2)),
    WindowCase("one more than the window, shifted", size=(1, 5, 5), shift=(2, 2)),
    WindowCase("one less than two windows, shifted", size=(1, 7, 7), shift=(2, 1)),
    WindowCase("rectangular window", size=(1, 6, 9), window=(2, 3), shift=(1, 1)),
    WindowCase("rectangular window, padded", size=(1, 5, 7), window=(3, 5), shift=(1, 2)),
    WindowCase("window of 7, shifted by 3", size=(1, 8, 7), window=(7, 7), shift=(3, 3), head_dim=3),
    WindowCase("one head", heads=1, shift=(2, 2)),
    WindowCase("24 heads", size=(1, 4, 6), heads=24, head_dim=2, shift=(2, 2)),
    WindowCase("odd channels", size=(1, 4, 8), heads=3, head_dim=5),
    WindowCase("one channel a head", size=(1, 4, 8), head_dim=1),
    WindowCase("33 channels a head", size=(1, 4, 4), heads=1, head_dim=33),
    WindowCase("no bias", table=False),
    WindowCase("no bias, shifted and padded", size=(1, 6, 7), table=False, shift=(2, 2)),
    WindowCase("scale of its own", scale=0.25, shift=(1, 1)),
    WindowCase("no image", size=(0, 8, 8), shift=(2, 2)),
    WindowCase("no image, no bias, padded", size=(0, 7, 6), table=False),
    WindowCase("channels first in memory", layout="planes", shift=(2, 2)),
    WindowCase("part of something larger", layout="slice", shift=(2, 2)),
    WindowCase("part of something larger, padded", size=(1, 6, 7), layout="slice", shift=(2, 2)),
    WindowCase("one image for the whole batch", layout="expanded", shift=(2, 2)),
)

CASES: tuple[Case, ...] = (*CONV_CASES, *WINDOW_CASES)
