"""Stand-ins for batches of detection and segmentation, and a loader of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.data import ValLoader


class ListBatch(NamedTuple):
    """Images of any sizes with what they show."""

    images: list[Tensor]
    targets: list[Any]
    weights: Tensor
    failed: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]

    def to(self, device: Any, memory_format: torch.memory_format = torch.contiguous_format) -> ListBatch:
        return self


def batches_of(
    images: Sequence[Tensor], targets: Sequence[Any], *, rank: int = 0, world: int = 1, size: int = 2, **dataset: Any
) -> ValLoader:
    """A process's share of images in batches of a size, filled up with rows of weight 0 as the loader does."""
    mine = [*range(rank, len(images), world)]
    most = -(-len(images) // world)
    mine += [-1] * (-(-most // size) * size - len(mine))
    made = []
    for start in range(0, len(mine), size):
        rows = mine[start : start + size]
        made.append(
            ListBatch(
                images=[images[row] if row >= 0 else torch.full((3, 1, 1), torch.nan) for row in rows],
                targets=[targets[row] if row >= 0 else targets[0] for row in rows],
                weights=torch.tensor([float(row >= 0) for row in rows]),
                failed=torch.full((len(rows),), -1),
                index=torch.tensor(rows),
            )
        )
    return ValLoader(SimpleNamespace(**dataset), len(made), lambda: iter(made))
