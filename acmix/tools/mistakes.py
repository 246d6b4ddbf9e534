"""What a detector got right in an image, what it missed and what it made up, by COCO's matching at IoU 0.5.

Objects of a class are matched to the surest detections of that class first. A detection that lies in a crowd of its
class is no mistake.
"""

# n detections · m objects of an image

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
IOU = 0.5
# sharing less than this with an object is not seeing it
GLANCE = 0.1


@dataclass(frozen=True)
class Boxes:
    """Some boxes of one image.

    Args:
        corners: (n, 4), xyxy.
        labels: (n,), 1 for the first class.
        scores: (n,); of objects 1.
    """

    corners: Array
    labels: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Boxes:
        return Boxes(self.corners[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True)
class Mistakes:
    """An image's account.

    Args:
        right: detections of an object.
        wrong: detections of none.
        why: what is wrong with each of them.
        missed: objects that no detection has.
    """

    right: Boxes
    wrong: Boxes
    missed: Boxes
    why: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.wrong) + len(self.missed)


def mistakes_of(found: Boxes, objects: Boxes, is_crowd: Array, names: Sequence[str]) -> Mistakes:
    """Compares what was found in an image with what is there.

    Args:
        found: detections that count, of any order.
        objects: those of the image.
        is_crowd: (m,) bool, whether an object is a region of many.
        names: of the classes.
    """
    found = found[np.argsort(-found.scores, kind="stable")]
    crowd, objects = objects[is_crowd], objects[~is_crowd]
    overlaps, shares = iou(found.corners, objects.corners), covered(found.corners, crowd.corners)
    # matched to an object, by the objects' places; -1 for none
    match = np.full(len(found), -1)
    for row in range(len(found)):
        free = (objects.labels == found.labels[row]) & ~np.isin(np.arange(len(objects)), match)
        candidates = np.where(free, overlaps[row], -1.0)
        if len(candidates) and candidates.max() >= IOU:
            match[row] = candidates.argmax()
    excused = ((shares >= IOU) & (crowd.labels == found.labels[:, None])).any(1)  # (n,)
    wrong = (match < 0) & ~excused
    why = [why_wrong(overlaps[row], objects.labels, int(found.labels[row]), names) for row in np.flatnonzero(wrong)]
    missed = ~np.isin(np.arange(len(objects)), match)
    return Mistakes(found[match >= 0], found[wrong], objects[missed], why)


def why_wrong(overlaps: Array, labels: Array, label: int, names: Sequence[str]) -> str:
    """What is wrong with a detection, by how much of each object it has."""
    same = labels == label
    if overlaps.max(initial=0, where=same) >= IOU:
        return "found twice"
    if overlaps.max(initial=0) >= IOU:
        true = int(labels[overlaps.argmax()])
        return f"is {names[true - 1]}"
    return "box is off" if overlaps.max(initial=0, where=same) >= GLANCE else "nothing there"


def iou(boxes: Array, others: Array) -> Array:
    """Intersection over union of boxes (n, 4) and others (m, 4): (n, m)."""
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def covered(boxes: Array, others: Array) -> Array:
    """The share of each of the boxes (n, 4) that lies in each of the others (m, 4): (n, m)."""
    shared, whole = intersection(boxes, others), area(boxes)[:, None]
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def intersection(boxes: Array, others: Array) -> Array:
    """The area that boxes (n, 4) and others (m, 4) share: (n, m) float64."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2]).astype(np.float64)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:]).astype(np.float64)
    return np.clip(high - low, 0, None).prod(-1)


def area(boxes: Array) -> Array:
    """Of boxes (n, 4): (n,) float64."""
    return np.clip(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0, None).prod(-1)
