"""Intersection over union and accuracies, exactly, from one matrix of counted pixels.

With n[i, j] the pixels of class i that were taken for class j, over all images and all processes:

    IoU_i = n[i, i] / (Σ_j n[i, j] + Σ_j n[j, i] - n[i, i])     accuracy_i = n[i, i] / Σ_j n[i, j]
    pixel accuracy = Σ_i n[i, i] / Σ_ij n[i, j]

mIoU is the mean IoU of the classes that occur in the labels or in the predictions, and the mean accuracy that of the
classes that occur in the labels: MMSegmentation's means.

Shapes: K classes · H W a label map's height and width
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from acmix.data.label_maps import IGNORED
from acmix.errors import UsageError
from acmix.tasks.evaluation import Evaluation


def count_pixels(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts the pixels of each class (row) that were taken for each class (column).

    Args:
        predicted: classes (H, W), 0 to K - 1.
        labels: (H, W), 0 to K - 1, or 255 where a pixel is not counted.
        classes: K.

    Returns:
        (K, K) int64.

    Raises:
        UsageError: a label is neither a class nor 255.
    """
    counted = labels != IGNORED  # (H, W)
    true = labels[counted].long()  # (pixels,)
    if true.numel() and not 0 <= int(true.min()) <= int(true.max()) < classes:
        wrong = int(true.max()) if int(true.max()) >= classes else int(true.min())
        raise UsageError(
            f"a label map holds {wrong}, which is neither one of {classes} classes, 0 to {classes - 1}, nor {IGNORED}, "
            "which is not counted; correct it"
        )
    cells = true * classes + predicted[counted].long()  # (pixels,)
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def measures(matrix: Tensor, names: Sequence[str], *, images: int) -> Evaluation:
    """Turns counted pixels into measures.

    Args:
        matrix: (K, K) int64 of the whole data set; a row is a class of the labels, a column one of the predictions.
        names: of the K classes.
        images: how many were counted.

    Returns:
        The metrics `miou`, `mean_accuracy` and `pixel_accuracy`, 0 where no pixel has a label; by class `iou`,
        `accuracy`, None where it does not occur, and `pixels`, how many the labels have.
    """
    right = matrix.diagonal().tolist()
    labelled, guessed = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    ious = [share(hit, true + taken - hit) for hit, true, taken in zip(right, labelled, guessed, strict=True)]
    accuracies = [share(hit, true) for hit, true in zip(right, labelled, strict=True)]
    metrics = {
        "miou": mean(ious) or 0.0,
        "mean_accuracy": mean(accuracies) or 0.0,
        "pixel_accuracy": share(sum(right), sum(labelled)) or 0.0,
    }
    rows = zip(unique(names), ious, accuracies, labelled, strict=True)
    by_class = {name: {"iou": iou, "accuracy": accuracy, "pixels": pixels} for name, iou, accuracy, pixels in rows}
    return Evaluation(
        metrics, images=images, by_class=by_class, lines=tuple(lines(metrics, ious, pixels=sum(labelled)))
    )


def share(part: int, whole: int) -> float | None:
    """In percent; None of nothing."""
    return 100 * part / whole if whole else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def unique(names: Sequence[str]) -> list[str]:
    """Names, numbered from 1 where two classes have the same."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)]


def lines(metrics: dict[str, float], ious: Sequence[float | None], *, pixels: int) -> list[str]:
    """The three measures in words."""
    if not pixels:
        return ["no pixel has a label: IoU and accuracy are not defined, and given as 0"]
    absent = sum(iou is None for iou in ious)
    titles = {"miou": "mean IoU", "mean_accuracy": "mean accuracy", "pixel_accuracy": "pixel accuracy"}
    said = [f"{title:<14} {metrics[name]:6.2f} %" for name, title in titles.items()]
    if absent:
        said.append(f"{absent} of {len(ious)} classes, which occur nowhere, are not in the mean IoU")
    return said
