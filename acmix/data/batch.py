"""What a loader hands over, and the account of files that could not be read."""

# b rows of a batch, H W height and width

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch.utils.data import default_collate

from acmix.errors import UsageError

# the share of a split's files that may be unreadable
UNREADABLE_SHARE = 0.01
# mean and std, one value a channel
Scale = tuple[Sequence[float], Sequence[float]]


class Finish(NamedTuple):
    """What is left to do to images of bytes once they are on the device: normalise them, then erase rectangles."""

    mean: torch.Tensor  # (in_chans, 1, 1) float32, of pixels of 0 to 1
    std: torch.Tensor  # (in_chans, 1, 1) float32
    places: torch.Tensor  # (n, 6) int64: row, top, left, height, width, and 1 where one colour fills it, else 0
    values: torch.Tensor  # float32, of all rectangles, one after the other

    def __call__(self, images: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
        """Images of bytes (b, in_chans, H, W) -> float32, normalised, in a memory format."""
        done = normalised(images, self.mean, self.std, memory_format)
        start = 0
        for row, top, left, height, width, is_plain in self.places.tolist():
            shape = (images.shape[1], 1, 1) if is_plain else (images.shape[1], height, width)
            end = start + math.prod(shape)
            done[row, :, top : top + height, left : left + width] = self.values[start:end].view(shape)
            start = end
        return done


def normalised(
    images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, memory_format: torch.memory_format
) -> torch.Tensor:
    """Images of bytes as numbers of mean 0 and deviation 1, to the same bits on whatever way.

    Args:
        images: uint8 (b, in_chans, H, W).
        mean, std: float32 (in_chans, 1, 1), of pixels of 0 to 1.
        memory_format: of the result.

    Returns:
        float32 (b, in_chans, H, W).
    """
    if images.device.type != "cpu":
        return images.to(torch.float32, memory_format=memory_format).div_(255).sub_(mean).div_(std)
    if memory_format == torch.channels_last:
        # a line of pixels, which lies in memory as the images do: each step goes over long vectors
        mean, std = (each.expand(-1, 1, images.shape[3]).permute(1, 2, 0).contiguous() for each in (mean, std))
        mean, std = (each.permute(2, 0, 1) for each in (mean, std))  # (in_chans, 1, W)
    done = torch.empty(images.shape, dtype=torch.float32, memory_format=memory_format)
    # all steps of one image while it lies in the processor's cache
    for image, place in zip(images, done, strict=True):
        place.copy_(image).div_(255).sub_(mean).div_(std)
    return done


class Batch(NamedTuple):
    """Images with their labels.

    Images of a training batch are bytes until `to` hands them to a device, which does what `finish` says.
    `weights` is 0 for a row that must not be counted: padding of an evaluation, or an unreadable file in it.
    `failed` holds the dataset index of an unreadable file met while this row was made, else -1.
    `index` holds the dataset index the row was asked for, -1 for padding.
    """

    images: torch.Tensor  # (b, in_chans, H, W) float32, normalised; uint8 where there is something to finish
    targets: torch.Tensor  # (b,) int64
    weights: torch.Tensor  # (b,) float32
    failed: torch.Tensor  # (b,) int64
    index: torch.Tensor  # (b,) int64  # pyright: ignore[reportIncompatibleMethodOverride]
    finish: Finish | None = None

    def to(self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """Copies what a model needs to a device, without waiting, and finishes the images there.

        Args:
            device: where the model lies; `failed` and `index` stay on the CPU.
            memory_format: of the images.

        Returns:
            A batch of float32 images, normalised, with nothing left to finish.
        """
        images, targets, weights = (
            each.to(device, non_blocking=True) for each in (self.images, self.targets, self.weights)
        )
        if self.finish is None:
            images = images.contiguous(memory_format=memory_format)
        else:
            mean, std, values = (
                each.to(device, non_blocking=True) for each in (self.finish.mean, self.finish.std, self.finish.values)
            )
            images = self.finish._replace(mean=mean, std=std, values=values)(images, memory_format)
        return self._replace(images=images, targets=targets, weights=weights, finish=None)


def collate(rows: list[Any], scale: Scale | None = None) -> Batch:
    """Stacks rows into a batch.

    Args:
        rows: see `acmix.data.dataset.Row`.
        scale: mean and std, one value a channel, of images of bytes; None: they are normalised.
    """
    images, targets, weights, failed, index, erased = zip(*rows, strict=True)
    if scale is None and images[0].dtype == torch.uint8:
        raise UsageError("images of bytes without a scale; expected collate(rows, scale=(mean, std))")
    return Batch(
        images=stacked([*images]),
        targets=torch.tensor(targets, dtype=torch.int64),
        weights=torch.tensor(weights, dtype=torch.float32),
        failed=torch.tensor(failed, dtype=torch.int64),
        index=torch.tensor(index, dtype=torch.int64),
        finish=None if scale is None else finish(scale, erased),
    )


def stacked(images: list[torch.Tensor]) -> torch.Tensor:
    """Images (in_chans, H, W) as (b, in_chans, H, W); bytes keep their channels side by side in memory."""
    if images[0].dtype != torch.uint8:
        return torch.stack(images)
    # of torch's own function, which stacks into shared memory where a reading process calls it
    return default_collate([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def finish(scale: Scale, erased: Sequence[Sequence[Any]]) -> Finish:
    """What is left to do to a batch.

    Args:
        scale: mean and std, one value a channel.
        erased: for each image its rectangles, see `acmix.data.training.Erased`.
    """
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in scale)
    found = [(row, each) for row, rectangles in enumerate(erased) for each in rectangles]
    places = [(row, *each[:4], int(each.values.shape[1:] == (1, 1))) for row, each in found]
    return Finish(
        mean,
        std,
        torch.tensor(places, dtype=torch.int64).view(len(places), 6),
        torch.cat([torch.empty(0), *(each.values.flatten() for _, each in found)]),
    )


class Named(Protocol):
    """What the account of unreadable files asks of a dataset."""

    split: str

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of a row's file."""
        ...


class UnreadableFiles:
    """Keeps the names of the files a run could not read, and stops the run when there are too many."""

    def __init__(self) -> None:
        self.by_split: dict[str, set[str]] = {}
        self.sizes: dict[str, int] = {}
        # what is wrong with the first one of a split
        self.reasons: dict[str, str] = {}

    def add(self, batch: Batch, dataset: Named) -> None:
        """Notes the files a batch failed to read.

        Args:
            batch: as a loader gave it.
            dataset: the loader's dataset, for the names and the size of the split; it may say `why(index)`.
        """
        self.sizes[dataset.split] = len(dataset)
        for index in batch.failed.tolist():
            if index >= 0:
                if dataset.split not in self.reasons and (why := getattr(dataset, "why", None)):
                    self.reasons[dataset.split] = why(index)
                self.by_split.setdefault(dataset.split, set()).add(dataset.name(index))

    @property
    def names(self) -> list[str]:
        """Every unreadable file met so far, sorted."""
        return sorted(set().union(*self.by_split.values()))

    def gather(self) -> None:
        """Learns what the other processes noted: each calls it; alone, nothing happens."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (self.by_split, self.sizes, self.reasons))
        for by_split, sizes, reasons in everyone:
            self.sizes.update(sizes)
            self.reasons = {**reasons, **self.reasons}
            for split, names in by_split.items():
                self.by_split.setdefault(split, set()).update(names)

    def check(self) -> None:
        """Raises UsageError when more than 1 % of a split's files were unreadable."""
        for split, names in self.by_split.items():
            if len(names) > UNREADABLE_SHARE * self.sizes[split]:
                some = ", ".join(sorted(names)[:3])
                reason = self.reasons.get(split, "")
                raise UsageError(
                    f"{len(names)} of the {self.sizes[split]} {split} images are unreadable, over"
                    f" {UNREADABLE_SHARE:.0%}: {some}{', ...' if len(names) > 3 else ''}; replace or remove them"
                    f"{f' ({reason})' if reason else ''}"
                )
