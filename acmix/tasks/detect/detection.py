"""Detection as a task of the training loop.

Shapes: n objects of an image · h, w its sides
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from acmix.config import Config
from acmix.data import Trained, TrainLoader, ValLoader
from acmix.data.detection import DetectionBatch, detection_train_loader, detection_val_loader
from acmix.data.image import normalisation
from acmix.heads import create_detector
from acmix.tasks.detect.anchors import odd_anchors
from acmix.tasks.detect.evaluate import evaluate
from acmix.tasks.detect.results import check_installed
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.networks import check_network, named_as_set, network_arguments


class Detection:
    """The task of finding objects: their boxes, classes and, with a mask head, outlines.

    Args:
        config: `task`, `model` and `data`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metric = "mask_ap" if config.task.has_masks else "box_ap"
        self.metrics = ("box_ap", "box_ap50", *(["mask_ap"] if config.task.has_masks else []))
        self.shown = self.metrics

    def check(self) -> None:
        """Refuses settings that cannot be meant, and a machine that cannot evaluate."""
        check_network(self.config)
        check_installed()

    def build(self, *, download: bool = False) -> nn.Module:
        """The detector; see `acmix.create_detector`. In training it takes images as the loader resized them."""
        task, in_chans = self.config.task, self.config.model.in_chans
        assert task.head
        assert task.min_size
        assert task.max_size
        arguments = network_arguments(self.config, download=download)
        arguments["backbone_args"]["in_chans"] = in_chans
        mean, std = normalisation(self.config.data, in_chans)
        sizes = dict(min_size=max(task.min_size), max_size=task.max_size)
        with named_as_set(self.config):
            model = create_detector(task.head, self.config.model.name, mean=mean, std=std, **sizes, **arguments)
        model.transform.resize_in_training = False  # type: ignore[union-attr]
        return model

    def blank(self, rows: int) -> tuple[list[Tensor], None]:
        """Images (in_chans, h, w) as the detector reads them."""
        assert self.config.task.min_size
        side = min(self.config.task.min_size)
        return [torch.zeros(self.config.model.in_chans, side, side) for _ in range(rows)], None

    def train_loader(self, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> TrainLoader:
        """The training split of one process."""
        return detection_train_loader(self.config, rank=rank, world_size=world_size, pin_memory=pin_memory)

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
        return detection_val_loader(
            self.config,
            rank=rank,
            world_size=world_size,
            pin_memory=pin_memory,
            batch_size=batch_size,
            trained=trained,
        )

    def remarks(self, model: Any, batches: TrainLoader) -> list[str]:
        """On anchors of another size than the objects'."""
        return odd_anchors(model, batches.dataset.coco)

    def loss(self, model: nn.Module, batch: DetectionBatch) -> dict[str, Tensor]:
        """The parts of a batch's loss, as torchvision's detectors call them."""
        return {name: part.float() for name, part in model(batch.images, batch.targets).items()}

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
        """Average precision; see `acmix.tasks.detect.evaluate`."""
        return evaluate(
            model,
            batches,
            device,
            with_masks=self.config.task.has_masks,
            autocast=autocast,
            memory_format=memory_format,
            on_batch=on_batch,
        )
