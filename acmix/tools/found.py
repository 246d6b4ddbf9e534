"""What detectors and segmenters find in an image, for a user: names, boxes, masks and label maps."""

# n objects · h, w height and width of the image as it was given, upright

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acmix.data.masks import mask_of_runs, run_lengths

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FoundObject:
    """One object in an image.

    Args:
        name: of its class.
        label: 1 for the first class, 2 for the second, …
        score: how sure the model is, from 0 to 1.
        box: left, top, right and bottom, in pixels of the image.
        size: (h, w).
        outline: its mask as COCO's compressed run lengths; None where the detector draws no masks.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    outline: str | None = None

    @property
    def mask(self) -> Array | None:
        """Its pixels: bool (h, w), or None where the detector draws no masks."""
        if self.outline is None:
            return None
        return mask_of_runs(run_lengths(self.outline, *self.size), *self.size).astype(bool)

    def as_coco(self, image: str) -> dict[str, Any]:
        """The object of an image in COCO's result format, with the names of the image and of its class."""
        left, top, right, bottom = self.box
        told: dict[str, Any] = {
            **names_of(image),
            "category_id": self.label,
            "category": self.name,
            "bbox": [left, top, right - left, bottom - top],
            "score": self.score,
        }
        return told if self.outline is None else told | segmentation(self.size, self.outline)


@dataclass(frozen=True)
class Detected:
    """What a detector found in one image.

    Args:
        image: the file; "image 3" for the fourth picture, where it was given in memory.
        objects: the surest first; empty where there are none, or the file could not be read.
        size: (h, w); None where the file could not be read.
        error: why it could not, in one line, or None.
    """

    image: str
    objects: list[FoundObject] = field(default_factory=list)
    size: tuple[int, int] | None = None
    error: str | None = None

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [each.name for each in self.objects]

    @property
    def scores(self) -> Array:
        """How sure the model is of each: (n,) float32."""
        return np.array([each.score for each in self.objects], dtype=np.float32)

    @property
    def boxes(self) -> Array:
        """(n, 4) float32: left, top, right and bottom, in pixels of the image."""
        return np.array([each.box for each in self.objects], dtype=np.float32).reshape(-1, 4)

    @property
    def masks(self) -> Array | None:
        """(n, h, w) bool; None where the detector draws no masks, or nothing was found."""
        masks = [each.mask for each in self.objects]
        return np.stack([each for each in masks if each is not None]) if masks and masks[0] is not None else None

    def as_coco(self) -> list[dict[str, Any]]:
        """The objects in COCO's result format."""
        return [each.as_coco(self.image) for each in self.objects]


@dataclass(frozen=True)
class Region:
    """All pixels of one class in an image.

    Args:
        name: of the class.
        label: 0 for the first class, 1 for the second, …, as in `Segmented.labels`.
        share: of the image's pixels, from 0 to 1.
    """

    name: str
    label: int
    share: float


@dataclass(frozen=True)
class Segmented:
    """What a segmenter says of one image.

    Args:
        image: the file; "image 3" for the fourth picture, where it was given in memory.
        labels: the class of each pixel, 0 for the first: (h, w) uint8, or uint16 where there are more than 256; None
            where the file could not be read.
        regions: the classes that occur, the largest first.
        error: why the file could not be read, in one line, or None.
    """

    image: str
    labels: Array | None = None
    regions: list[Region] = field(default_factory=list)
    error: str | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w); None where the file could not be read."""
        return None if self.labels is None else (self.labels.shape[0], self.labels.shape[1])

    @property
    def names(self) -> list[str]:
        """The classes that occur, the largest first."""
        return [each.name for each in self.regions]

    def as_coco(self) -> list[dict[str, Any]]:
        """A row for each class that occurs, in the result format of COCO's stuff task, with its name and share."""
        from acmix.tools.run_length import mask_to_text

        if self.labels is None:
            return []
        size = (self.labels.shape[0], self.labels.shape[1])
        return [
            {
                **names_of(self.image),
                "category_id": each.label + 1,
                "category": each.name,
                "share": each.share,
                **segmentation(size, mask_to_text(self.labels == each.label)),
            }
            for each in self.regions
        ]


def regions_of(labels: Array, names: list[str]) -> list[Region]:
    """The classes of a label map (h, w), the largest first; classes without a name are numbered."""
    # row by row: np.unique would sort all pixels, and np.bincount count in 64 bits
    most = int(labels.max()) + 1
    counts = sum((np.bincount(row, minlength=most) for row in labels), np.zeros(most, dtype=np.int64))
    labels_there = np.flatnonzero(counts)
    counts = counts[labels_there]
    found = [
        Region(names[label] if label < len(names) else str(label), label, count / labels.size)
        for label, count in zip(labels_there.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(found, key=lambda each: -each.share)


def names_of(image: str) -> dict[str, str]:
    """An image in COCO's results: its id is the file's name, as no other is known; and where the file lies."""
    return {"image_id": os.path.basename(image), "image": image}


def segmentation(size: tuple[int, int], outline: str) -> dict[str, Any]:
    """A mask as COCO's results hold it."""
    return {"segmentation": {"size": [*size], "counts": outline}}
