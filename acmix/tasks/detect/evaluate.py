"""Measures a detector on a data set: its predictions are packed batch by batch, and AP is computed at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from acmix.data import ValLoader
from acmix.tasks.detect.average_precision import average_precision
from acmix.tasks.detect.results import Detections, check_installed, pack
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.measuring import measuring


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: ValLoader,
    device: torch.device,
    *,
    with_masks: bool,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_format: torch.memory_format = torch.contiguous_format,
    on_batch: Callable[[Any], None] | None = None,
    group: Any = None,
) -> Evaluation:
    """Measures a detector exactly: padding and unreadable images have no weight, and every other counts once.

    Each image goes through the model alone, as in published evaluations: beside a larger one it would be filled up, and
    what is found in it would depend on the batch and so on the number of processes.

    Args:
        model: takes a list of images (3, h, w) and gives a dictionary for each: boxes, scores, labels and masks; its
            mode is put back afterwards.
        batches: this process's share, of a dataset with `ground_truth()`: COCO's images, in the order of the dataset,
            categories and annotations. A batch has a list of `images`, `weights` and `index`.
        device: where the model lies.
        with_masks: whether masks are measured, too.
        autocast: makes the context the model runs in.
        memory_format: of the images.
        on_batch: told each batch, for progress and a list of unreadable files.
        group: of processes; the default group by default.

    Returns:
        The same for every process; see `average_precision`.

    Raises:
        UsageError: no image could be read, a label has no category, or faster-coco-eval is not installed.
    """
    check_installed()
    found: list[Detections] = []
    with measuring(model):
        for cpu_batch in batches:
            batch = cpu_batch.to(device, memory_format=memory_format)
            numbers, weights = cpu_batch.index.tolist(), cpu_batch.weights.tolist()
            for image, number, weight in zip(batch.images, numbers, weights, strict=True):
                if weight > 0:
                    with autocast():
                        [prediction] = model([image])
                    found.append(pack(number, prediction, with_masks=with_masks))
            if on_batch is not None:
                on_batch(cpu_batch)
    return average_precision(batches.dataset.ground_truth(), found, with_masks=with_masks, group=group)
