"""Images with objects as a detector's training and evaluation see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from acmix.config import Config, validate
from acmix.data import Trained
from acmix.data.detection import detection_train_loader, open_coco
from acmix.data.detection_dataset import DetectionBatch, DetectionDataset


def config(root: Path, *, head: str = "mask_rcnn", workers: int = 0, task: Any = None, **train: Any) -> Config:
    sizes = {"min_size": [24, 32], "max_size": 64, "crop": [10, 30]}
    return validate(
        {
            "task": {"name": "detect", "head": head, "num_classes": 3, **sizes, **(task or {})},
            "data": {"dir": str(root), "workers": workers},
            "train": {"batch_size": 4, "seed": 3, **train},
        }
    )


def opened(root: Path, split: str = "val", *, trained: Trained | None = None, **settings: Any) -> DetectionDataset:
    given = config(root, **settings)
    augment = given.augment if split == "train" else None
    return open_coco(given.data, split, given.task, augment=augment, trained=trained)


def flat(value: Any) -> list[torch.Tensor]:
    """Every tensor in a batch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [each for key in sorted(value) for each in flat(value[key])]
    return [tensor for each in value for tensor in flat(each)]


def steps(settings: Config, world_size: int = 1, epoch: int = 0, start_step: int = 0) -> list[DetectionBatch]:
    """One batch an optimizer step: the micro-batches of all processes put together."""
    loaders = [detection_train_loader(settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    streams = [list(loader.epoch(epoch, start_step)) for loader in loaders]
    accumulation = settings.train.accumulation
    together = []
    for step in range(loaders[0].steps_per_epoch - start_step):
        passes = range(step * accumulation, (step + 1) * accumulation)
        parts = [stream[number] for number in passes for stream in streams]
        images, targets = ([row for part in parts for row in getattr(part, key)] for key in ("images", "targets"))
        rest = (torch.cat([getattr(part, key) for part in parts]) for key in ("weights", "failed", "index"))
        together.append(DetectionBatch(images, targets, *rest))
    return together
