"""The outlines of all objects of a data set, checked and packed into a few arrays.

A list of lists of numbers takes several times the memory, and every process that reads a list makes a copy of it.
"""

# h, w height and width of the object's image

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

from acmix.data.masks import POINTS, BrokenOutline, mask_of_polygons, mask_of_runs, run_lengths, runs_of_mask, within

# numbers of a polygon: three points
SMALLEST = 6


class Segmentations:
    """Outlines in the order in which they were added; `mask` and `written` give them back.

    An outline is one or several parts, each a row of numbers: polygons, or a single row of run lengths.
    """

    def __init__(self) -> None:
        self.numbers = array("d")
        # where parts and outlines begin and the last one ends
        self.parts = array("q", [0])
        self.outlines = array("q", [0])
        self.has_runs = array("b")

    def __len__(self) -> int:
        return len(self.has_runs)

    def add(self, segmentation: Any, height: int, width: int) -> int:
        """Takes in an outline.

        Args:
            segmentation: a list of polygons, or run lengths `{"size": [h, w], "counts": list or text}`.
            height, width: of its image, as its annotations say.

        Returns:
            How many polygons were left out, as they have fewer than three points or are damaged.

        Raises:
            BrokenOutline: nothing is left, or run lengths that do not fit the image; nothing was added.
        """
        if isinstance(segmentation, dict):
            if segmentation.get("size") != [height, width]:
                raise BrokenOutline(f"run lengths for another size than the image's {width}×{height}")
            parts = [array("d", run_lengths(segmentation.get("counts"), height, width).tolist())]
            left_out = 0
        elif isinstance(segmentation, list):
            parts = [part for polygon in segmentation if (part := polygon_of(polygon)) is not None]
            left_out = len(segmentation) - len(parts)
            if not parts:
                raise BrokenOutline("no polygon of three points" if segmentation else "no segmentation")
        else:
            raise BrokenOutline("no segmentation" if segmentation is None else "neither polygons nor run lengths")
        for part in parts:
            self.numbers.extend(part)
            self.parts.append(len(self.numbers))
        self.outlines.append(len(self.parts) - 1)
        self.has_runs.append(isinstance(segmentation, dict))
        return left_out

    def rows(self, outline: int) -> list[np.ndarray]:
        """The parts of an outline: float64 (numbers,) each."""
        numbers = np.frombuffer(self.numbers)
        first, last = self.outlines[outline], self.outlines[outline + 1]
        return [numbers[self.parts[part] : self.parts[part + 1]] for part in range(first, last)]

    def mask(self, outline: int, height: int, width: int) -> np.ndarray:
        """An outline as uint8 (h, w) of 0 and 1."""
        rows = self.rows(outline)
        if self.has_runs[outline]:
            return mask_of_runs(rows[0].astype(np.int64), height, width)
        return mask_of_polygons(rows, height, width)

    def written(self, outline: int, height: int, width: int) -> list[list[float]] | dict[str, Any]:
        """An outline in COCO's format, such that a library in C can take it: polygons of bounded length, else runs."""
        rows = self.rows(outline)
        if self.has_runs[outline]:
            return {"size": [height, width], "counts": rows[0].astype(np.int64).tolist()}
        polygons = [within(row, height, width) for row in rows]
        if sum(np.abs(polygon[2:] - polygon[:-2]).sum() for polygon in polygons) < POINTS:
            return [polygon.tolist() for polygon in polygons]
        return {"size": [height, width], "counts": runs_of_mask(mask_of_polygons(rows, height, width)).tolist()}


def polygon_of(given: Any) -> array[float] | None:
    """A polygon's numbers; None where they are damaged or fewer than three points."""
    if not isinstance(given, list) or len(given) < SMALLEST or len(given) % 2:
        return None
    try:
        numbers = array("d", given)
    except (TypeError, OverflowError):
        return None
    return numbers if math.isfinite(sum(numbers)) else None
