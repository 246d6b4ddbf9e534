"""Outlines of objects in COCO's two forms, polygons and run lengths, as masks; equal to pycocotools' to the pixel.

Written in NumPy, so that training needs no further package, a damaged outline raises `BrokenOutline` where compiled
code would read beyond its memory, and nothing is allocated that the size of the image does not account for.

*Run lengths* go down the columns from the upper left pixel, first of pixels outside, then inside, and so on; as
numbers, or as text: each number in groups of 5 bits, the lowest first, as characters from "0" (48) on; 32 is added to
each character but a number's last, whose bit 16 is the sign; from the fourth number on it is the difference to the
number two before.

*Polygons* are filled by parity: a walk along the outline on a grid five times as fine, each side with one point for
each step of its longer direction, meets the middle of a column of pixels at some height, and all pixels of the column
from there on change sides.
"""

# h, w height and width of the image

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

# points of the fine grid a pixel
FINE = 5
# groups of 5 bits in a number: 35 bits, more than any image has pixels
GROUPS = 7
# how far from the image a point may lie, as a multiple of the image's sides
FAR = 10
# points of a walk that are in memory at a time
POINTS = 2**20


class BrokenOutline(ValueError):
    """An outline that describes no region of its image; says why in a few words."""


def run_lengths(counts: Any, height: int, width: int) -> np.ndarray:
    """Reads run lengths and checks that they cover the image.

    Args:
        counts: numbers in a list, or text.
        height, width: of the image.

    Returns:
        int64 (runs,), none negative, with sum height * width.

    Raises:
        BrokenOutline: anything else.
    """
    if isinstance(counts, str | bytes):
        runs = from_text(counts)
    elif isinstance(counts, list):
        try:
            runs = np.array(array("q", counts))
        except (TypeError, OverflowError):
            raise BrokenOutline("run lengths that are no whole numbers") from None
    else:
        raise BrokenOutline("run lengths that are neither a list nor text")
    if runs.min(initial=0) < 0:
        raise BrokenOutline("negative run lengths")
    # of Python's integers, which cannot overflow
    covered = sum(runs.tolist())
    if covered != height * width:
        raise BrokenOutline(f"run lengths for {covered} pixels, not for {width}×{height}")
    return runs


def from_text(text: str | bytes) -> np.ndarray:
    """Run lengths (runs,) from their text."""
    try:
        letters = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise BrokenOutline("run lengths with characters of no meaning") from None
    groups = np.frombuffer(letters, np.uint8).astype(np.int64) - 48  # (letters,)
    if groups.min(initial=0) < 0 or groups.max(initial=0) > 63:
        raise BrokenOutline("run lengths with characters of no meaning")
    ends = np.flatnonzero(groups < 32)  # (runs,)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise BrokenOutline("run lengths that are cut off")
    firsts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - firsts + 1
    if sizes.max() > GROUPS:
        raise BrokenOutline("run lengths above any image's size")
    places = np.arange(len(groups)) - np.repeat(firsts, sizes)
    values = np.add.reduceat((groups & 31) << (5 * places), firsts)
    values -= np.where(groups[ends] & 16, np.int64(1) << (5 * sizes), 0)
    # differences of every second number
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def mask_of_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Run lengths, as `run_lengths` gives them, as uint8 (h, w) of 0 and 1."""
    inside = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(inside, runs).reshape(width, height).T


def runs_of_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) of 0 and 1 as run lengths, int64 (runs,)."""
    columns = mask.T.reshape(-1)  # (w * h,)
    places = np.flatnonzero(np.diff(columns, prepend=0))
    return np.diff(places, prepend=0, append=columns.size)


def mask_of_polygons(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons as uint8 (h, w) of 0 and 1.

    Args:
        polygons: each x and y in turn, float64 (2 * points,), finite. A point farther from the image than ten times
            its width or height is moved to that distance.
        height, width: of the image.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    for polygon in polygons:
        mask |= mask_of_runs(filled(polygon, height, width), height, width)
    return mask


def within(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """A polygon (2 * points,) without points that are very far away."""
    size = np.tile([width, height], len(polygon) // 2)
    return polygon.clip(-FAR * size, (FAR + 1) * size)


def filled(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inside of a polygon (2 * points,) as run lengths (runs,)."""
    points = within(polygon, height, width).reshape(-1, 2)
    # truncated as C does it; beyond the image that matters
    fine = np.trunc(FINE * points + 0.5).astype(np.int64)  # (points, 2)
    sides = np.concatenate([fine, np.roll(fine, -1, axis=0)], axis=1)  # (points, 4): from x, from y, to x, to y
    steps = np.abs(sides[:, 2:] - sides[:, :2]).max(axis=1)  # (points,)
    changes = np.empty(0, dtype=np.int64)
    for chosen in np.split(np.arange(len(sides)), np.flatnonzero(np.diff(np.cumsum(steps) // POINTS)) + 1):
        found = crossings(sides[chosen], steps[chosen], height, width)
        # two at one place undo each other
        places, times = np.unique(np.concatenate([changes, found]), return_counts=True)
        changes = places[times % 2 == 1]
    return np.diff(changes, prepend=0, append=height * width)


def crossings(sides: np.ndarray, steps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a walk along sides (sides, 4) crosses the middles of columns: places down the columns, (crossings,)."""
    x_from, y_from, x_to, y_to = sides.T
    flat = np.abs(x_to - x_from) >= np.abs(y_to - y_from)
    # the walk's rounding is that of going up in the longer direction
    swap = np.where(flat, x_from > x_to, y_from > y_to)
    start = np.where(swap[:, None], sides[:, 2:], sides[:, :2])  # (sides, 2)
    rise = np.where(swap[:, None], sides[:, :2], sides[:, 2:]) - start
    slope = np.where(flat, rise[:, 1], rise[:, 0]) / np.maximum(steps, 1)
    side = np.repeat(np.arange(len(sides)), steps + 1)  # (points,)
    along = np.arange(len(side)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    other = np.where(flat, start[:, 1], start[:, 0])[side] + slope[side] * along
    other = np.trunc(other + 0.5).astype(np.int64)
    along = along + np.where(flat, start[:, 0], start[:, 1])[side]
    x = np.where(flat[side], along, other)
    y = np.where(flat[side], other, along)
    # neighbours of one side, in two columns of the fine grid, the left of which is the middle of a column of pixels
    left = np.minimum(x[1:], x[:-1])
    meets = (side[1:] == side[:-1]) & (x[1:] != x[:-1]) & (left % FINE == FINE // 2)
    meets &= (left >= 0) & (left < width * FINE)
    column = left[meets] // FINE
    upper = np.minimum(y[1:], y[:-1])[meets]
    row = np.ceil(((upper + 0.5) / FINE - 0.5).clip(0, height)).astype(np.int64)
    return column * height + row
