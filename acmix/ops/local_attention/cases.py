"""Calls of local attention: odd ones for tests, and those of the networks for benchmarks.

Shapes: B batch · H, W map · N heads · D channels a head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from acmix.ops import cases
from acmix.ops.cases import RESNET_HEADS, resnet_calls


@dataclass(frozen=True)
class Case(cases.Case):
    """One call of `acmix.ops.local_attention`.

    Args:
        heads: N.
        head_dim: D.
        size: sides of a neighbourhood.
        position: whether keys have one.
    """

    heads: int = 2
    head_dim: int = 4
    size: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    position: bool = True
    scale: float | None = None

    operator: ClassVar[str] = "local_attention"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by name."""
        return dict(size=self.size, stride=self.stride, dilation=self.dilation, scale=self.scale)

    def numbers(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors by name, the data first, of about unit size."""
        made = {
            "qkv": torch.randn(*self.map_size, 3, self.heads, self.head_dim, generator=draw),
            "position": torch.randn(*self.map_size[1:], self.head_dim, generator=draw),
        }
        if not self.position:
            del made["position"]
        return made


CASES = (
    Case("as ResNet has it", map_size=(1, 14, 14), heads=4, size=(7, 7)),
    Case("3×3 neighbourhoods"),
    Case("neighbourhood of one pixel", size=(1, 1)),
    Case("rectangular neighbourhood", size=(1, 5)),
    Case("rectangular neighbourhood, upright", size=(5, 3)),
    Case("neighbourhood larger than the map", map_size=(1, 2, 5), size=(7, 7)),
    Case("mirrored more than once", map_size=(1, 2, 3), size=(9, 11)),
    Case("side of the neighbourhood's reach", map_size=(1, 3, 4), size=(7, 7)),
    Case("one pixel", map_size=(2, 1, 1), size=(7, 7)),
    Case("one row", map_size=(1, 1, 20), size=(7, 7)),
    Case("one column", map_size=(1, 9, 1), size=(3, 3)),
    Case("stride 2, even and odd side", stride=2),
    Case("stride 3", map_size=(1, 7, 8), stride=3),
    Case("stride beyond the map", map_size=(2, 2, 3), stride=4),
    Case("dilation 2", dilation=2),
    Case("dilation beyond the map", map_size=(1, 3, 2), dilation=5),
    Case("dilation 2 with stride 2", map_size=(1, 9, 8), size=(5, 5), dilation=2, stride=2),
    Case("one head", heads=1),
    Case("24 heads", map_size=(1, 3, 4), heads=24, head_dim=2),
    Case("odd channels", heads=3, head_dim=5),
    Case("one channel a head", head_dim=1),
    Case("33 channels a head", map_size=(1, 3, 3), heads=1, head_dim=33),
    Case("no position", position=False),
    Case("no position, stride 2", position=False, stride=2),
    Case("scale of its own", scale=0.25),
    Case("prime sides", map_size=(1, 11, 13), head_dim=3),
    Case("no image", map_size=(0, 5, 6)),
    Case("no image, no position, stride 2", map_size=(0, 5, 6), position=False, stride=2),
    Case("channels first in memory", layout="planes"),
    Case("channels first in memory, stride 2", layout="planes", stride=2),
    Case("part of something larger", layout="slice"),
    Case("one image for the whole batch", layout="expanded"),
    Case("3×1 on 4×5", map_size=(2, 4, 5), head_dim=3, size=(3, 1)),
    Case("1×5 on 4×5, stride 2", map_size=(2, 4, 5), head_dim=3, size=(1, 5), stride=2),
    Case("5×3 on 3×2, dilation 2", map_size=(2, 3, 2), head_dim=3, size=(5, 3), dilation=2),
    Case("1×7 on 1×6, stride 2, dilation 2", map_size=(2, 1, 6), head_dim=3, size=(1, 7), stride=2, dilation=2),
    Case("3×5 on 5×1, stride 3", map_size=(2, 5, 1), head_dim=3, size=(3, 5), stride=3),
    Case("130 channels a head", map_size=(1, 5, 6), heads=1, head_dim=130),
    Case("neighbourhood of 257 in a row", map_size=(1, 1, 20), size=(1, 257)),
)

# what a kernel has to compute right on its first use; a few lanes of every width
PROOF = (
    Case("7×7", map_size=(1, 9, 10), heads=2, head_dim=32, size=(7, 7), scale=0.25),
    Case("stride and dilation", map_size=(1, 9, 8), head_dim=16, stride=2, dilation=2, position=False, scale=0.25),
)

NETWORKS = tuple(
    Case(
        name,
        map_size=(1, side, side),
        heads=RESNET_HEADS,
        head_dim=channels // RESNET_HEADS,
        size=(7, 7),
        stride=stride,
    )
    for name, side, channels, stride in resnet_calls()
)
