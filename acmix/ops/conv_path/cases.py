"""Calls of the convolution path: odd ones for tests, and those of the networks for benchmarks.

Shapes: B batch · H, W map · N heads · D channels a head · P pieces of D channels · T maps
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from acmix.ops import cases
from acmix.ops.cases import RESNET_HEADS, resnet_calls, swin_calls


@dataclass(frozen=True)
class Case(cases.Case):
    """One call of `acmix.ops.conv_path`.

    Args:
        heads: N, which is also the number of outputs for each of the D channels.
        head_dim: D.
        pieces: P; 3·N where None.
        conv_size: sides of the kernels, or one for both.
        maps: T; as many as a kernel has taps where None.
        bias: whether fc has one.
        plus: what is added to the output: "map", "tokens", of which two have no place, or nothing.
        plus_bias: whether a bias is added to it.
    """

    heads: int = 2
    head_dim: int = 4
    pieces: int | None = None
    conv_size: int | tuple[int, int] = 3
    maps: int | None = None
    stride: int = 1
    dilation: int = 1
    shift: tuple[int, int] = (0, 0)
    bias: bool = True
    plus: str = ""
    plus_bias: bool = False

    operator: ClassVar[str] = "conv_path"
    parameters: ClassVar[tuple[str, ...]] = ("fc_weight", "fc_bias", "kernels", "plus_bias")

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by name."""
        none = {} if self.bias else {"fc_bias": None}
        return dict(stride=self.stride, dilation=self.dilation, shift=self.shift, **none)

    def numbers(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors by name, the data first, of about unit size."""
        pieces = 3 * self.heads if self.pieces is None else self.pieces
        rows, columns = (self.conv_size,) * 2 if isinstance(self.conv_size, int) else self.conv_size
        maps = rows * columns if self.maps is None else self.maps
        made = {
            "pieces": torch.randn(*self.map_size, pieces, self.head_dim, generator=draw),
            "fc_weight": torch.randn(maps, pieces, generator=draw) / math.sqrt(pieces),
            "fc_bias": torch.randn(maps, generator=draw),
            "kernels": torch.randn(self.heads * self.head_dim, maps, rows, columns, generator=draw) / (rows * columns),
        }
        if not self.bias:
            del made["fc_bias"]
        batch, *sides = self.map_size
        rows, columns = ((side - 1) // self.stride + 1 for side in sides)
        outputs = self.heads * self.head_dim
        if self.plus:
            shape = (batch, rows, columns) if self.plus == "map" else (batch, 2 + rows * columns)
            made["plus"] = torch.randn(*shape, outputs, generator=draw)
        if self.plus_bias:
            made["plus_bias"] = torch.randn(outputs, generator=draw)
        return made


CASES = (
    Case("as Swin has it"),
    Case("shifted", shift=(3, 2)),
    Case("shifted along one side", shift=(0, 2)),
    Case("shift beyond the map", map_size=(1, 2, 3), shift=(3, 4)),
    Case("negative shift", shift=(-2, 1)),
    Case("stride 2, even and odd side", stride=2),
    Case("stride 2, one pixel", map_size=(2, 1, 1), stride=2),
    Case("stride 3", map_size=(1, 7, 8), stride=3),
    Case("dilation 2", dilation=2),
    Case("dilation 2 with stride 2", map_size=(1, 9, 8), dilation=2, stride=2),
    Case("dilation beyond the map", map_size=(1, 3, 2), dilation=4),
    Case("kernel of 1", conv_size=1),
    Case("kernel of 5 on a rectangle", map_size=(1, 5, 8), conv_size=5, head_dim=2),
    Case("kernel of 5, larger than the map", map_size=(1, 2, 3), conv_size=5, head_dim=2),
    Case("one head", heads=1),
    Case("24 heads", map_size=(1, 3, 4), heads=24, head_dim=2),
    Case("odd channels", head_dim=5, heads=3),
    Case("one channel a head", head_dim=1),
    Case("33 channels a head", map_size=(1, 2, 3), head_dim=33, heads=1),
    Case("SAN's pieces", heads=4, head_dim=3, pieces=6, bias=False),
    Case("one piece", heads=3, pieces=1),
    Case("no bias", bias=False),
    Case("no bias, shifted", bias=False, shift=(1, 1)),
    Case("one row", map_size=(2, 1, 9)),
    Case("one column, shifted", map_size=(2, 9, 1), shift=(4, 0)),
    Case("one pixel", map_size=(1, 1, 1)),
    Case("one image", map_size=(1, 6, 7)),
    Case("no image", map_size=(0, 6, 7)),
    Case("no image, stride 2, shiftless", map_size=(0, 5, 4), stride=2, bias=False),
    Case("prime sides", map_size=(1, 11, 13), head_dim=3),
    Case("channels first in memory", layout="planes"),
    Case("channels first in memory, shifted", layout="planes", shift=(2, 3)),
    Case("part of something larger", layout="slice"),
    Case("part of something larger, stride 2", layout="slice", stride=2),
    Case("one image for the whole batch", layout="expanded", shift=(1, 2)),
    Case("3×1 on 4×5", map_size=(2, 4, 5), conv_size=(3, 1)),
    Case("1×5 on 4×5, stride 2", map_size=(2, 4, 5), conv_size=(1, 5), stride=2),
    Case("5×3 on 3×2, dilation 2", map_size=(2, 3, 2), conv_size=(5, 3), dilation=2),
    Case("1×7 on 1×6, stride 2, dilation 2", map_size=(2, 1, 6), conv_size=(1, 7), stride=2, dilation=2),
    Case("3×5 on 5×1, stride 3", map_size=(2, 5, 1), conv_size=(3, 5), stride=3),
    Case("fewer maps than taps", maps=4),
    Case("a map added", plus="map"),
    Case("a map and a bias added, shifted", heads=3, plus="map", plus_bias=True, shift=(2, 3)),
    Case("a bias added, stride 2", plus_bias=True, stride=2),
    Case("tokens added", heads=3, head_dim=5, plus="tokens"),
    Case("tokens and a bias added, one pixel", map_size=(2, 1, 1), plus="tokens", plus_bias=True),
    Case("no image, tokens added", map_size=(0, 3, 4), plus="tokens", plus_bias=True),
    Case("289 taps", map_size=(1, 2, 3), heads=1, head_dim=2, conv_size=17, maps=2),
)

# what a kernel has to compute right on its first use; a few lanes of every width
PROOF = (
    Case("rolled", map_size=(1, 9, 8), heads=3, head_dim=32, shift=(1, 2)),
    Case("stride and dilation", map_size=(1, 9, 8), heads=4, head_dim=16, stride=2, dilation=2, bias=False),
    Case("tokens", map_size=(1, 3, 4), heads=6, head_dim=32, plus="tokens", plus_bias=True),
)

NETWORKS = (
    *(
        Case(name, map_size=(1, side, side), heads=heads, head_dim=channels // heads, shift=(shift, shift))
        for name, side, channels, heads, shift in swin_calls()
    ),
    *(
        Case(name, (1, side, side), heads=RESNET_HEADS, head_dim=channels // RESNET_HEADS, stride=stride, bias=False)
        for name, side, channels, stride in resnet_calls()
    ),
)
