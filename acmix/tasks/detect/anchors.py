"""Whether the anchors of a detector are of the objects' size.

Shapes: n objects · A anchors' shapes
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from acmix.data.coco import Coco
from acmix.heads.detectors import Detector

# the overlap, as area of intersection over union, from which an anchor learns an object
LEAST_OVERLAP = 0.5
# of the objects: less is told
LEAST_SHARE = 0.5
# of them as many as are looked at
LOOKED_AT = 50_000
# tried in the place of the detector's own
SCALES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# by how much another one's share is larger, or it is not named
GAIN = 0.2


def odd_anchors(model: Detector, coco: Coco) -> list[str]:
    """A line where most objects are of a size that no anchor has, and others would have.

    Nothing fails then: an object that no anchor overlaps by half is learned from the single one that is nearest, late.

    Args:
        model: any detector.
        coco: what it learns from.
    """
    sides = scaled_sides(model, coco)
    if model.anchors is None or not len(sides):
        return []
    shapes = model.anchors.shapes().numpy().astype(np.float64)
    smallest = model.anchors.sizes[0][0]
    own = smallest / model.anchors.strides[0]
    share = share_met(sides, shapes)
    shares = {scale: share_met(sides, shapes * (scale / own)) for scale in SCALES}
    # of about equal ones that nearest to its own
    best = max(SCALES, key=lambda scale: (round(shares[scale], 1), -abs(math.log(scale / own))))
    if share >= LEAST_SHARE or shares[best] < share + GAIN:
        return []
    middle = float(np.median(np.sqrt(sides.prod(axis=1))))
    return [
        f"{1 - share:.0%} of the training objects overlap no anchor by half, wherever they are: they are of "
        f"{middle:.0f} pixels (the median, scaled to task.min_size), and the smallest anchors of {smallest:.0f}; "
        f"task.args.anchor_scale={best:g} leaves {1 - shares[best]:.0%}"
    ]


def scaled_sides(model: Detector, coco: Coco) -> np.ndarray:
    """Width and height of the objects as the detector sees their images at evaluation, float64 (n, 2)."""
    sizes = coco.sizes.astype(np.float64)
    # torchvision's type says one number
    shorter: Any = model.transform.min_size
    longest = model.transform.max_size
    scale = np.minimum(shorter[-1] / sizes.min(axis=1), longest / sizes.max(axis=1))  # (images,)
    sides = coco.boxes[:, 2:] * np.repeat(scale, np.diff(coco.starts))[:, None]
    sides = sides[~coco.crowd]
    return sides[:: max(1, len(sides) // LOOKED_AT)]


def share_met(sides: np.ndarray, shapes: np.ndarray) -> float:
    """The share of objects (n, 2) that one of the shapes (A, 2) overlaps enough where both have the same centre."""
    overlaps = [
        (both := np.minimum(sides, shape).prod(axis=1)) / (sides.prod(axis=1) + shape.prod() - both) for shape in shapes
    ]
    return float((np.max(overlaps, axis=0) >= LEAST_OVERLAP).mean())
