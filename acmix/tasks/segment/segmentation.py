"""Semantic segmentation as a task of the training loop.

Shapes: b images · K classes · H, W sides of a crop
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.config import Config
from acmix.data import Trained, TrainLoader, ValLoader
from acmix.data.segmentation import SegmentationBatch, segmentation_train_loader, segmentation_val_loader
from acmix.heads import create_segmenter
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.networks import check_network, named_as_set, network_arguments
from acmix.tasks.segment.evaluate import evaluate

# the label of pixels that do not count
IGNORED = 255


class Segmentation:
    """The task of giving each pixel its class.

    Args:
        config: `task`, `model` and `data`.
        scales: at evaluation, factors of the image's size whose probabilities are averaged.
        flip: also the mirrored image's.
    """

    metric = "miou"
    metrics = ("miou", "mean_accuracy", "pixel_accuracy")
    shown = metrics

    def __init__(self, config: Config, *, scales: tuple[float, ...] = (1.0,), flip: bool = False) -> None:
        self.config, self.scales, self.flip = config, scales, flip

    def check(self) -> None:
        """Refuses settings that cannot be meant."""
        check_network(self.config)

    def build(self, *, download: bool = False) -> nn.Module:
        """The segmenter; see `acmix.create_segmenter`."""
        assert self.config.task.head
        arguments = network_arguments(self.config, download=download)
        in_chans = self.config.model.in_chans
        with named_as_set(self.config):
            return create_segmenter(self.config.task.head, self.config.model.name, in_chans=in_chans, **arguments)

    def blank(self, rows: int) -> tuple[Tensor, tuple[int, ...]]:
        """Images (rows, in_chans, H, W), and the shape of their logits."""
        height, width = self.config.task.crop_sides
        images = torch.zeros(rows, self.config.model.in_chans, height, width)
        assert self.config.task.num_classes
        return images, (rows, self.config.task.num_classes, height, width)

    def train_loader(self, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> TrainLoader:
        """The training split of one process."""
        return segmentation_train_loader(self.config, rank=rank, world_size=world_size, pin_memory=pin_memory)

    def val_loader(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        batch_size: int | None = None,
        trained: Trained | None = None,
    ) -> ValLoader:
        """The validation split of one process; `trained` are the classes that a model knows."""
        return segmentation_val_loader(
            self.config,
            rank=rank,
            world_size=world_size,
            pin_memory=pin_memory,
            batch_size=batch_size,
            trained=trained,
        )

    def remarks(self, model: nn.Module, batches: TrainLoader) -> list[str]:
        """None."""
        return []

    def loss(self, model: nn.Module, batch: SegmentationBatch) -> dict[str, Tensor]:
        """The mean cross-entropy over all pixels, ignored ones as 0; and the auxiliary head's, by its weight.

        A mean over all pixels is the same for any number of processes, and 0 where every pixel is ignored.
        """
        answer = model(batch.images)
        assert isinstance(batch.targets, Tensor), "crops have one size"
        if not isinstance(answer, dict):
            return {"loss": mean_loss(answer, batch.targets)}
        weight = auxiliary_weight(model)
        return {
            "segmentation": mean_loss(answer["out"], batch.targets),
            "auxiliary": weight * mean_loss(answer["aux"], batch.targets),
        }

    def evaluate(
        self,
        model: nn.Module,
        batches: ValLoader,
        device: torch.device,
        *,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        memory_format: torch.memory_format = torch.contiguous_format,
        on_batch: Callable[[Any], None] | None = None,
    ) -> Evaluation:
        """Intersection over union; see `acmix.tasks.segment.evaluate`."""
        task = self.config.task
        windows: dict[str, Any] = {}
        if task.sliding:
            sides = task.crop_sides
            windows = dict(crop=sides, stride=task.stride or max(1, min(sides) * 2 // 3))
        return evaluate(
            model,
            batches,
            device,
            autocast=autocast,
            memory_format=memory_format,
            on_batch=on_batch,
            scales=self.scales,
            flip=self.flip,
            **windows,
        )


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of (b, K, H, W) and (b, H, W), with ignored pixels as 0."""
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum") / targets.numel()


def auxiliary_weight(model: nn.Module) -> float:
    """The weight of a segmenter's auxiliary loss, also where DistributedDataParallel or torch.compile wraps it."""
    inner = model._modules.get("module") or model._modules.get("_orig_mod")
    return float(model.auxiliary_weight) if inner is None else auxiliary_weight(inner)  # type: ignore[arg-type]
