"""What a detector is given: images and targets, refused in one line where they cannot be meant.

Shapes: h, w image · n objects
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acmix.errors import UsageError


def check_images(images: Sequence[Tensor], in_chans: int) -> None:
    """Refuses what is no list of images (in_chans, h, w) in floating point, of at least one pixel."""
    if not len(images):
        raise UsageError("a detector got no images; expected a list of at least one")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != in_chans or not image.numel():
            what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise UsageError(f"image {i} is {what}; expected a tensor ({in_chans}, h, w) with values in 0 … 1")
        if not image.is_floating_point():
            raise UsageError(f"image {i} is {image.dtype}; expected floating point in 0 … 1: divide bytes by 255")


def check_targets(
    targets: Sequence[dict[str, Tensor]] | None, images: Sequence[Tensor], num_classes: int, *, masks: bool
) -> None:
    """Refuses targets that a detector cannot learn from; see `create_detector`."""
    if targets is None:
        raise UsageError("a detector that trains needs targets: call model(images, targets), or model.eval() first")
    if len(targets) != len(images):
        raise UsageError(f"{len(images)} images and {len(targets)} targets; expected one for each image")
    for i, (target, image) in enumerate(zip(targets, images, strict=True)):
        for key in ("boxes", "labels", *(("masks",) * masks)):
            if key not in target:
                raise UsageError(f"target {i} has no {key!r}; it has {', '.join(target) or 'nothing'}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise UsageError(
                f"boxes of target {i} are {boxes.dtype} {tuple(boxes.shape)}; expected float32 (n, 4): x1, y1, x2, y2"
            )
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise UsageError(
                f"labels of target {i} are {labels.dtype} {tuple(labels.shape)}; expected int64 ({len(boxes)},)"
            )
        if masks and target["masks"].shape != (len(boxes), *image.shape[1:]):
            raise UsageError(
                f"masks of target {i} are {tuple(target['masks'].shape)}; expected "
                f"{(len(boxes), *image.shape[1:])}: one of the image's size for each box"
            )
    check_values(targets, num_classes)


def check_values(targets: Sequence[dict[str, Tensor]], num_classes: int) -> None:
    """Refuses boxes without an area and labels beyond the classes; the device is waited for once."""
    boxes = torch.cat([each["boxes"] for each in targets])
    labels = torch.cat([each["labels"] for each in targets])
    # not "not above", so that a box of NaN is found too
    wrong_box = ~(boxes[:, 2:] > boxes[:, :2]).all(1) | ~boxes.isfinite().all(1)
    wrong_label = (labels < 1) | (labels > num_classes)
    if not bool((wrong_box | wrong_label).any()):
        return
    for i, target in enumerate(targets):
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            if not (box[2] > box[0] and box[3] > box[1]) or not all(abs(each) < float("inf") for each in box):
                raise UsageError(f"target {i} has a box without an area, {box}; expected x1 < x2 and y1 < y2")
            if not 1 <= label <= num_classes:
                raise UsageError(f"target {i} has label {label}; expected 1 to {num_classes}: 0 is the background")


def check_norms(out_norms: object) -> None:
    """Refuses what does not say whether there are norms."""
    if out_norms is not None and not isinstance(out_norms, bool):
        raise UsageError(f"out_norms={out_norms!r}; expected true, false, or null for the backbone's own")
