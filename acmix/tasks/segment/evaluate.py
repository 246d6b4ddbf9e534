"""Measures a segmenter on a data set at the original size of its label maps, exactly, on any number of processes.

Shapes: K classes · h w an image's height and width · H W its label map's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from acmix.data import ValLoader
from acmix.errors import UsageError
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.measuring import measuring, told_to_all
from acmix.tasks.segment.confusion import count_pixels, measures
from acmix.tasks.segment.inference import best_classes, logits_at_its_size


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: ValLoader,
    device: torch.device,
    *,
    crop: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_format: torch.memory_format = torch.contiguous_format,
    on_batch: Callable[[Any], None] | None = None,
    group: Any = None,
) -> Evaluation:
    """Measures a segmenter image by image: padding and unreadable images have no weight, and every other counts once.

    Args:
        model: gives (1, K, h, w) logits of (1, 3, h, w) images; its mode is put back afterwards.
        batches: this process's share, of a dataset with `classes`. A batch has images (3, h, w) and targets (H, W) of
            one size or many, 255 where a pixel is not counted, and `weights`.
        device: where the model lies.
        crop, stride, scales, flip: see `logits_of`.
        autocast: makes the context the model runs in.
        memory_format: of the images.
        on_batch: told each batch, for progress and a list of unreadable files.
        group: of processes; the default group by default.

    Returns:
        The same for every process; see `measures`.

    Raises:
        UsageError: no image could be read, the model has another number of classes than the data, or a label is no
            class; on every process where one meets it.
    """
    names = list(batches.dataset.classes)
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64, device=device)
    images, wrong = 0, ""
    with measuring(model):
        for cpu_batch in batches:
            batch = cpu_batch.to(device, memory_format=memory_format)
            for image, labels, weight in zip(batch.images, batch.targets, cpu_batch.weights.tolist(), strict=True):
                if weight == 0 or wrong:
                    continue
                with autocast():
                    logits = logits_at_its_size(
                        model, image, crop=crop, stride=stride, scales=scales, flip=flip, memory_format=memory_format
                    )
                try:
                    matrix += counted(logits, labels, len(names))
                except UsageError as error:
                    wrong = str(error)
                images += 1
            if on_batch is not None:
                on_batch(cpu_batch)
    # exact: whole numbers, and off the device
    told = told_to_all((matrix.cpu(), images, wrong), group)
    for _, _, message in told:
        if message:
            raise UsageError(message)
    images = sum(part for _, part, _ in told)
    if images == 0:
        raise UsageError("none of the validation images could be read; check that they are image files")
    return measures(torch.stack([part for part, _, _ in told]).sum(dim=0), names, images=images)


def counted(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The pixels (K, K) of one image, counted at the size of its labels."""
    if len(logits) != classes:
        raise UsageError(f"the model has {len(logits)} classes and the data {classes}; set task.num_classes={classes}")
    return count_pixels(best_classes(logits, (labels.shape[0], labels.shape[1])), labels, classes)
