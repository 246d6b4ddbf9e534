"""Moving between a map and what lies around its pixels: rolls, mirrored borders, views of neighbours.

Shapes: B batch · H, W map · Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def roll(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Rolls dimensions 1 and 2 by −shift."""
    return x.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else x


def roll_back(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Undoes `roll`."""
    return x.roll(tuple(shift), (1, 2)) if any(shift) else x


def neighbours(values: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """For each offset, row by row, the map (B, H, W, C) moved by it; mirrored at the border, as often as it takes."""
    height, width = values.shape[1:3]
    above, left = (side // 2 for side in size)
    rows, columns = reflected(height, above, values.device), reflected(width, left, values.device)
    padded = values.index_select(1, rows).index_select(2, columns)
    return list(views(padded, (height, width), size, 1, 1))


def views(
    padded: Tensor, out_size: tuple[int, ...] | torch.Size, size: tuple[int, int], stride: int, dilation: int
) -> Iterator[Tensor]:
    """For each of the offsets, row by row, the view of a padded map that lies under the output's pixels."""
    rows, columns = (stride * (side - 1) + 1 for side in out_size)
    for y in range(0, size[0] * dilation, dilation):
        for x in range(0, size[1] * dilation, dilation):
            yield padded[:, y : y + rows : stride, x : x + columns : stride]


def reflected(side: int, reach: int, device: torch.device) -> Tensor:
    """The pixel that stands at −reach … side − 1 + reach when a line is mirrored at both ends, as often as it takes.

    Where reflection padding is allowed (reach < side) this is it; a line of one pixel repeats that pixel.
    """
    return mirrored(torch.arange(-reach, side + reach, device=device), side)


def mirrored(position: Tensor, side: int | Tensor) -> Tensor:
    """The pixels that stand at positions in and around a line that is mirrored so; a side that is open is a tensor."""
    twice = 2 * side - 2
    period = twice.clamp(min=1) if isinstance(twice, Tensor) else max(twice, 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position)


def fold_edges(padded: Tensor, dim: int, side: int, reach: int) -> Tensor:
    """Adds what lies in the mirrored margins of a dimension to the pixels they mirror."""
    shape = list(padded.shape)
    shape[dim] = side
    return padded.new_zeros(shape).index_add_(dim, reflected(side, reach, padded.device), padded)
