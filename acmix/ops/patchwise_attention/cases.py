"""Calls of patchwise attention: odd ones for tests.

Shapes: B batch · H, W map · C channels in G groups · Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acmix.ops.cases import finish
from acmix.ops.patchwise_attention import patchwise_attention


@dataclass(frozen=True)
class Case:
    """One call of `acmix.ops.patchwise_attention`.

    Args:
        name: what is special about it.
        map_size: (B, H, W).
        channels: C.
        groups: G.
        size: sides of a neighbourhood.
        layout: how values lie in memory; see `acmix.ops.cases.laid_out`.
    """

    name: str
    map_size: tuple[int, int, int] = (2, 6, 7)
    channels: int = 6
    groups: int = 2
    size: tuple[int, int] = (3, 3)
    layout: str = "contiguous"

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        return dict(size=self.size)

    def tensors(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """The arguments by name, of about unit size, that ask for gradients; the same numbers in every dtype."""
        draw = torch.Generator().manual_seed(seed)
        offsets = self.size[0] * self.size[1]
        made = {
            "values": torch.randn(*self.map_size, self.channels, generator=draw),
            "weights": torch.randn(*self.map_size, offsets, self.groups, generator=draw),
        }
        return finish(made, "values", self.layout, dtype, device)

    def call(self, tensors: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        return patchwise_attention(**tensors, **self.settings)


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
