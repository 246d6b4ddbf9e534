"""Segmentation: images with a class for each pixel, their batches, and the loaders of both splits."""

# b rows of a batch, C channels, H W height and width of a crop, h w those of one image, h0 w0 those of its label map

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from acmix.config import Config
from acmix.data.classes import Trained
from acmix.data.dataset import PADDING, SUBSTITUTES, seed_of, seeded
from acmix.data.fingerprint import fingerprint
from acmix.data.image import reader
from acmix.data.label_maps import IGNORED, Pairs, open_pairs, read_pair
from acmix.data.label_names import Labels, open_labels
from acmix.data.loader import TrainLoader, ValLoader, evaluation_batches, training_batches
from acmix.data.segmentation_transforms import evaluation_transform, training_transform
from acmix.errors import UsageError


class SegmentationRow(NamedTuple):
    """One row of a batch; see `SegmentationBatch` for the meaning of the fields."""

    image: torch.Tensor  # (C, h, w) float32, normalised
    target: torch.Tensor  # (h0, w0) uint8, 255 = ignored
    weight: float
    failed: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class SegmentationBatch(NamedTuple):
    """Images with a class for each pixel.

    In training both are stacked, in crops of one size. In evaluation both are lists, as images differ in size; a target
    has its label map's own size, not that of its resized image, so logits are resized to it.

    `weights` is 0 for a row that must not be counted: padding of an evaluation, or an unreadable pair in it.
    `failed` holds the dataset index of an unreadable pair met while this row was made, else -1.
    `index` holds the dataset index the row was asked for, -1 for padding.
    """

    images: torch.Tensor | list[torch.Tensor]  # (b, C, H, W), or b of (C, h, w): float32, normalised
    targets: torch.Tensor | list[torch.Tensor]  # (b, H, W), or b of (h0, w0): int64, 255 = ignored
    weights: torch.Tensor  # (b,) float32
    failed: torch.Tensor  # (b,) int64
    index: torch.Tensor  # (b,) int64  # pyright: ignore[reportIncompatibleMethodOverride]

    def to(
        self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format
    ) -> SegmentationBatch:
        """Copies what a model needs to a device, without waiting; `failed` and `index` stay on the CPU.

        `memory_format` is for stacked images: one image alone has no batch to lay out.
        """
        images = copied(self.images, device)
        if isinstance(images, torch.Tensor):
            images = images.contiguous(memory_format=memory_format)
        return self._replace(
            images=images,
            targets=copied(self.targets, device),
            weights=self.weights.to(device, non_blocking=True),
        )


def copied(tensors: torch.Tensor | list[torch.Tensor], device: torch.device | str) -> Any:
    """One tensor or several on a device."""
    if isinstance(tensors, torch.Tensor):
        return tensors.to(device, non_blocking=True)
    return [each.to(device, non_blocking=True) for each in tensors]


def collate_crops(rows: list[SegmentationRow]) -> SegmentationBatch:
    """Stacks rows of training, which have one size."""
    batch = collate_lists(rows)
    return batch._replace(images=torch.stack([*batch.images]), targets=torch.stack([*batch.targets]))


def collate_lists(rows: list[SegmentationRow]) -> SegmentationBatch:
    """Puts rows of evaluation together, each in its own size."""
    images, targets, weights, failed, index = zip(*rows, strict=True)
    return SegmentationBatch(
        images=list(images),
        targets=[target.to(torch.int64) for target in targets],
        weights=torch.tensor(weights, dtype=torch.float32),
        failed=torch.tensor(failed, dtype=torch.int64),
        index=torch.tensor(index, dtype=torch.int64),
    )


@dataclass(kw_only=True, eq=False)
class SegmentationDataset(Dataset[SegmentationRow]):
    """A split, readable in any order; `dataset[index]` or, as the sampler does it, `dataset[index, sample_seed]`.

    An unreadable pair gives way to the next one in training, and has weight 0 in evaluation.

    Args:
        pairs: the files.
        labels: what their labels are.
        split: "train" or "val".
        ignore_zero: whether the value 0 of a label map is ignored.
        read: reads an image as RGB.
        prepare: from a picture and its classes, uint8 (h0, w0), to a row's image and target.
        training: whether the rows are for training.
        blank_shape: channels, height and width of a row without an image.
        seed: of the augmentation where rows are asked for by a bare index.
    """

    pairs: Pairs
    labels: Labels
    split: str
    ignore_zero: bool
    read: Callable[..., Image.Image]
    prepare: Callable[[Image.Image, np.ndarray], tuple[torch.Tensor, torch.Tensor]]
    training: bool
    blank_shape: tuple[int, int, int]
    seed: int

    @property
    def classes(self) -> list[str]:
        """The names of the classes; a label is a position in it."""
        return self.labels.names

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on what was left out of the split, and on the names of the classes, if any."""
        return (*self.pairs.notes, *self.labels.notes)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """A row's image file, relative to the data folder."""
        return self.pairs.images[index]

    def fingerprint(self) -> str:
        """What tells the split from others."""
        return fingerprint([*self.pairs.images, *self.pairs.labels])

    def __getitem__(self, key: int | tuple[int, int]) -> SegmentationRow:
        index, sample_seed = key if isinstance(key, tuple) else (key, seed_of(self.seed, 0, key))
        if index == PADDING:
            return self.blank(-1, PADDING)
        if not 0 <= index < len(self):
            raise IndexError(index)
        for step in range(SUBSTITUTES if self.training else 1):
            try:
                picture, labels = self.pair((index + step) % len(self))
            except (UsageError, OSError):
                continue
            with seeded(sample_seed):
                image, target = self.prepare(picture, labels)
            return SegmentationRow(image, target, 1.0, index if step else -1, index)
        return self.blank(index, index)

    def blank(self, failed: int, index: int) -> SegmentationRow:
        """A row of weight 0."""
        target = torch.full(self.blank_shape[1:], IGNORED, dtype=torch.uint8)
        return SegmentationRow(torch.zeros(self.blank_shape), target, 0.0, failed, index)

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """A row's picture, RGB (w0, h0), and its classes, uint8 (h0, w0); UsageError or OSError where one is unfit."""
        pairs, labels = self.pairs, self.labels
        picture, classes = read_pair(
            os.path.join(pairs.root, pairs.images[index]),
            os.path.join(pairs.root, pairs.labels[index]),
            read=self.read,
            classes=labels.stored,
            ignore_zero=self.ignore_zero,
        )
        return picture, classes if labels.table is None else labels.table[classes]

    def why(self, index: int) -> str:
        """Why a row cannot be read; "" where it can."""
        try:
            self.pair(index)
        except (UsageError, OSError) as error:
            return str(error)
        return ""


def open_segmentation(
    config: Config, split: str, *, training: bool, trained: Trained | None = None
) -> SegmentationDataset:
    """Opens a split of images with label maps.

    Args:
        config: data, task, augment.hflip, model.in_chans, train.seed.
        split: "train" or "val".
        training: whether rows are changed at random, in crops; else images are resized, and label maps keep their size.
        trained: the classes of a model, whose labels the rows then have; None: the data's own.

    Raises:
        UsageError: nothing to read, something unfit, or other classes than task.num_classes or `trained` says.
    """
    task = config.task
    pairs = open_pairs(config.data, split, trained=trained is not None)
    labels = open_labels(pairs.root, task, trained)
    height, width = task.crop_sides if training else (task.align or 1,) * 2
    return SegmentationDataset(
        pairs=pairs,
        labels=labels,
        split=split,
        ignore_zero=bool(task.ignore_zero),
        read=reader(config.data),
        prepare=training_transform(config) if training else evaluation_transform(config),
        training=training,
        blank_shape=(config.model.in_chans, height, width),
        seed=config.train.seed,
    )


def segmentation_train_loader(
    config: Config, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
) -> TrainLoader:
    """Opens the training split for one process; its batches are stacked crops.

    Arguments and result are as for `acmix.data.train_loader`, with batches of `SegmentationBatch`.

    Raises:
        UsageError: unfit data, another number of classes than configured, a global batch above the number of images.
    """
    dataset = open_segmentation(config, "train", training=True)
    settings: Any = dict(rank=rank, world_size=world_size, pin_memory=pin_memory)
    return training_batches(config, dataset, collate=collate_crops, **settings)


def segmentation_val_loader(
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    batch_size: int | None = None,
    trained: Trained | None = None,
) -> ValLoader:
    """Opens the validation split for one process; its batches are lists, as images differ in size.

    Arguments and result are as for `acmix.data.val_loader`, with batches of `SegmentationBatch`.

    Raises:
        UsageError: unfit data, or other classes than those configured or trained.
    """
    dataset = open_segmentation(config, "val", training=False, trained=trained)
    settings: Any = dict(rank=rank, world_size=world_size, pin_memory=pin_memory, batch_size=batch_size)
    return evaluation_batches(config, dataset, collate=collate_lists, **settings)
