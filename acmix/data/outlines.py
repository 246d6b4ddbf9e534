"""Masks as COCO writes them: polygons along the edges of pixels, or run lengths."""

# H W height and width of a mask

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# to the right, down, to the left, up; as (x, y)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def segmentation_of(mask: np.ndarray) -> list[list[int]] | dict[str, Any]:
    """COCO's `segmentation` of a mask (H, W): polygons, or run lengths where it has a hole."""
    loops = list(outlines(mask))
    if all(is_outer(loop) for loop in loops):
        return [[value for corner in loop for value in corner] for loop in loops]
    return run_lengths(mask)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Lengths of the runs of 0, 1, 0, ... down the columns, beginning with 0."""
    flat = mask.T.reshape(-1).astype(np.int8)  # (W * H,)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0)).tolist()
    # where the last run reaches the end, its edge is the end itself
    ends = [*edges, *([flat.size] if not edges or edges[-1] != flat.size else [])]
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": list(mask.shape), "counts": counts}


def outlines(mask: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """The corners (x, y) of every outline: clockwise around the mask, the other way around its holes."""
    ahead = edges_of(mask)
    while ahead:
        start = corner, step = next(iter(ahead))
        loop = []
        while True:
            del ahead[corner, step]
            x, y = corner
            corner = (x + STEPS[step][0], y + STEPS[step][1])
            # where two pixels touch by a corner, the turn to the right keeps them apart
            turns = (corner, (step + 1) % 4), (corner, step), (corner, (step - 1) % 4)
            following = next((turn for turn in turns if turn in ahead or turn == start), start)
            if following[1] != step:
                loop.append(corner)
            if following == start:
                break
            step = following[1]
        yield loop


def edges_of(mask: np.ndarray) -> dict[tuple[tuple[int, int], int], None]:
    """Every edge between a pixel of the mask and one outside: its first corner, and the place of its step in STEPS."""
    inside = np.pad(mask.astype(bool), 1)
    found = {}
    # the neighbour across the edge, the corner of the pixel where the edge begins, and the way it goes
    for (across_x, across_y), (x0, y0), step in (
        ((0, -1), (0, 0), 0),
        ((1, 0), (1, 0), 1),
        ((0, 1), (1, 1), 2),
        ((-1, 0), (0, 1), 3),
    ):
        outside = ~np.roll(inside, (-across_y, -across_x), (0, 1))
        for y, x in np.argwhere(inside & outside).tolist():
            found[(x - 1 + x0, y - 1 + y0), step] = None
    return found


def is_outer(loop: list[tuple[int, int]]) -> bool:
    """Whether an outline goes clockwise, as y points down: around the mask, not around a hole."""
    following = [*loop[1:], loop[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(loop, following, strict=True)) > 0
