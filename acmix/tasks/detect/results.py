"""Predictions of a detector as they are kept, measured and written: packed, one object an image.

Shapes: n detections of an image · h w its height and width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acmix.errors import UsageError
from acmix.extras import install

# a pixel belongs to an object where the mask is above
MASK_THRESHOLD = 0.5
# pixels of masks that are encoded at once; 64 MiB
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image.

    Args:
        image: index of the image in its data set, or whatever else tells it from others.
        boxes: (n, 4) float32, xyxy in pixels of the image.
        scores: (n,) float32.
        labels: (n,) int64, 1 to the number of classes; label k is class k - 1.
        size: (h, w) of the masks; None without.
        masks: n run-length encodings in COCO's compressed form; None where the detector has no masks.
        dropped: detections with a score or box that is not a finite number, and of label 0, which is no class.
    """

    image: int | str
    boxes: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    size: tuple[int, int] | None = None
    masks: tuple[bytes, ...] | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.scores)


def check_installed() -> None:
    """Raises UsageError where the package that encodes masks and measures AP is missing."""
    if find_spec("faster_coco_eval") is None:
        raise UsageError(f"detection needs faster-coco-eval; run {install('detect')}")


def pack(image: int | str, prediction: Mapping[str, Tensor], *, with_masks: bool) -> Detections:
    """Packs a detector's prediction for one image; masks are encoded at once, as they are a thousand times as large.

    Args:
        image: its index, or a name.
        prediction: boxes (n, 4) xyxy, scores (n,), labels (n,) and, with masks, masks (n, 1, h, w) of probabilities, on
            any device.
        with_masks: whether masks are kept.

    Raises:
        UsageError: faster-coco-eval, which encodes masks, is not installed.
    """
    boxes, scores = (prediction[key].detach().float().cpu() for key in ("boxes", "scores"))
    labels = prediction["labels"].detach().cpu()
    kept = boxes.isfinite().all(dim=1) & scores.isfinite() & (labels > 0)  # (n,)
    size = masks = None
    if with_masks:
        drawn = prediction["masks"].detach()
        size = (int(drawn.shape[-2]), int(drawn.shape[-1]))
        # indexing copies: they are many, and hardly ever is one left out
        masks = encode(drawn[:, 0] if bool(kept.all()) else drawn[kept.to(drawn.device), 0])
    return Detections(
        image=image,
        boxes=boxes[kept].numpy(),
        scores=scores[kept].numpy(),
        labels=labels[kept].numpy(),
        size=size,
        masks=masks,
        dropped=int((~kept).sum()),
    )


def encode(masks: Tensor) -> tuple[bytes, ...]:
    """Run-length encodings, in COCO's compressed form, of masks (n, h, w): probabilities, or of zeros and ones.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    check_installed()
    from faster_coco_eval.core import mask as encoder

    n, height, width = masks.shape
    step = max(1, MOST_PIXELS // max(1, height * width))
    codes: list[bytes] = []
    for start in range(0, n, step):
        part = (masks[start : start + step] > MASK_THRESHOLD).to(torch.uint8)
        columns = part.transpose(1, 2).contiguous().cpu().numpy()  # (n, w, h)
        codes += [code["counts"] for code in encoder.encode(columns.transpose(2, 1, 0))]  # (h, w, n), columns first
    return tuple(codes)


def coco_results(
    found: Detections, category_ids: Sequence[int], *, image_id: int | str | None = None
) -> list[dict[str, Any]]:
    """Gives detections in COCO's result format.

    Args:
        found: of one image.
        category_ids: the category's id of each class.
        image_id: how the results name the image; `found.image` by default.

    Returns:
        A dictionary for each detection: `image_id`, `category_id`, `bbox` [x, y, width, height], `score` and, where
        the detector has masks, `segmentation` {`size` [h, w], `counts` text}.
    """
    corners = found.boxes.astype(np.float64)  # (n, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rows: list[dict[str, Any]] = [
        {
            "image_id": found.image if image_id is None else image_id,
            "category_id": category_ids[label - 1],
            "bbox": box,
            "score": score,
        }
        for box, score, label in zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
    ]
    if found.masks is not None and found.size is not None:
        for row, code in zip(rows, found.masks, strict=True):
            row["segmentation"] = {"size": list(found.size), "counts": code.decode("ascii")}
    return rows
