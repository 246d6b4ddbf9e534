"""Calls of patchwise attention: odd ones for tests, and those of the networks for benchmarks.

Shapes: B batch · H, W map · C channels in G groups · Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from acmix.ops import cases
from acmix.ops.cases import network_name

# side of the map, channels, groups and side of a neighbourhood of SAN's stages at 224 pixels
SAN = ((112, 16, 2, 3), (56, 64, 8, 7), (28, 128, 16, 7), (14, 256, 32, 7), (7, 512, 64, 7))


@dataclass(frozen=True)
class Case(cases.Case):
    """One call of `acmix.ops.patchwise_attention`.

    Args:
        channels: C.
        groups: G.
        size: sides of a neighbourhood.
    """

    channels: int = 6
    groups: int = 2
    size: tuple[int, int] = (3, 3)

    operator: ClassVar[str] = "patchwise_attention"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by name."""
        return dict(size=self.size)

    def numbers(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors by name, the data first, of about unit size."""
        offsets = self.size[0] * self.size[1]
        return {
            "values": torch.randn(*self.map_size, self.channels, generator=draw),
            "weights": torch.randn(*self.map_size, offsets, self.groups, generator=draw),
        }


CASES = (
    Case("as SAN has it", map_size=(2, 8, 8), channels=16, size=(7, 7)),
    Case("3×3 neighbourhoods"),
    Case("prime sides", map_size=(1, 5, 7), groups=3),
    Case("neighbourhood larger than the map", map_size=(1, 2, 3), channels=4, groups=1, size=(7, 7)),
    Case("mirrored more than once", map_size=(1, 2, 1), channels=4, size=(9, 9)),
    Case("one pixel", map_size=(1, 1, 1), channels=8, groups=4, size=(5, 5)),
    Case("one row", map_size=(1, 1, 9), size=(5, 5)),
    Case("one column", map_size=(1, 9, 1)),
    Case("rectangular neighbourhood", map_size=(2, 4, 6), size=(3, 5)),
    Case("one neighbour", map_size=(1, 3, 3), channels=5, groups=5, size=(1, 1)),
    Case("one group", map_size=(1, 4, 5), groups=1),
    Case("one channel", map_size=(1, 4, 5), channels=1, groups=1),
    Case("33 channels a group", map_size=(1, 3, 4), channels=66),
    Case("no image", map_size=(0, 3, 3), channels=4),
    Case("channels first in memory", layout="planes"),
    Case("part of something larger", layout="slice"),
    Case("one image for the whole batch", layout="expanded"),
)

# what a kernel has to compute right on its first use; a few lanes of every width
PROOF = (Case("7×7", map_size=(1, 9, 8), channels=64, groups=8, size=(7, 7)),)

NETWORKS = tuple(
    Case(
        network_name(side, channels, groups, size=size),
        map_size=(1, side, side),
        channels=channels,
        groups=groups,
        size=(size, size),
    )
    for side, channels, groups, size in SAN
)
