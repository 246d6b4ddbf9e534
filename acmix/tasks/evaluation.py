"""What a whole data set says of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

# metrics as lines and curves call them
LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "mask_ap": "mask AP",
    "miou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
}


@dataclass(frozen=True)
class Evaluation:
    """Measures over a whole data set, every readable image counted once; the same on every process.

    Args:
        metrics: percent by name: `top1`, `top5`; `box_ap`, `box_ap50`, …, `mask_ap`, …; `miou`, `mean_accuracy`,
            `pixel_accuracy`.
        images: how many were counted.
        loss: mean loss, where the task has one at evaluation.
        by_class: by the name of a class its measures in percent, and counts; None where nothing can be said.
        lines: the usual lines to print, where the task has such.
    """

    metrics: dict[str, float]
    images: int
    loss: float | None = None
    by_class: dict[str, dict[str, float | None]] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
