"""What a loader hands over, and the account of files that could not be read."""

# b rows of a batch, H W height and width

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist

from acmix.errors import UsageError

# the share of a split's files that may be unreadable
UNREADABLE_SHARE = 0.01


class Batch(NamedTuple):
    """Images with their labels.

    `weights` is 0 for a row that must not be counted: padding of an evaluation, or an unreadable file in it.
    `failed` holds the dataset index of an unreadable file met while this row was made, else -1.
    `index` holds the dataset index the row was asked for, -1 for padding.
    """

    images: torch.Tensor  # (b, in_chans, H, W) float32, normalised
    targets: torch.Tensor  # (b,) int64
    weights: torch.Tensor  # (b,) float32
    failed: torch.Tensor  # (b,) int64
    index: torch.Tensor  # (b,) int64  # pyright: ignore[reportIncompatibleMethodOverride]

    def to(self, device: torch.device | str, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """Copies what a model needs to a device, without waiting; `failed` and `index` stay on the CPU."""
        images, targets, weights = (
            each.to(device, non_blocking=True) for each in (self.images, self.targets, self.weights)
        )
        return self._replace(images=images.contiguous(memory_format=memory_format), targets=targets, weights=weights)


def collate(rows: list[Any]) -> Batch:
    """Stacks rows into a batch."""
    images, targets, weights, failed, index = zip(*rows, strict=True)
    return Batch(
        images=torch.stack(images),
        targets=torch.tensor(targets, dtype=torch.int64),
        weights=torch.tensor(weights, dtype=torch.float32),
        failed=torch.tensor(failed, dtype=torch.int64),
        index=torch.tensor(index, dtype=torch.int64),
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
