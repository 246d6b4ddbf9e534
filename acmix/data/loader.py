"""Batches for training and for evaluation, on any number of processes.

Training. Epoch e visits the images in one global order, a permutation drawn from (seed, e). With b images a process and
forward pass, A accumulated passes and W processes, optimizer step s takes the G = b A W positions [s G, (s + 1) G), and
process r in its pass a the rows [(a W + r) b, (a W + r + 1) b) of these. So one process with batch 2b, two with batch
b, and one with batch b and A = 2 see the same images, changed in the same way, step by step. An incomplete last step is
dropped.

Shards have an order of their own, in which a process reads few of them at a time; see `acmix.data.shards.order`.

Evaluation. Process r takes the images r, r + W, r + 2W, ...; shares are filled up with rows of weight 0, so that all
processes get equally many batches and every image counts once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import Sampler

from acmix.config import Config
from acmix.data.batch import Batch, collate
from acmix.data.classes import Trained
from acmix.data.dataset import PADDING, ceil_div, check_classes, open_dataset, seed_of
from acmix.data.image import normalisation
from acmix.data.readers import Loader
from acmix.data.shards.source import Shards
from acmix.data.stream import is_stream, open_stream, read_evaluation, read_training
from acmix.data.worker import cores, start_worker
from acmix.errors import UsageError

MOST_WORKERS = 8
# reading processes that may be asked for, a core and at least: each takes memory, and more of them only wait
WORKERS_A_CORE, LEAST_BOUND = 8, 32


class TrainLoader:
    """The micro-batches of this process, epoch by epoch."""

    def __init__(
        self,
        dataset: Any,
        steps_per_epoch: int,
        read: Callable[[int, int], Iterator[Any]],
    ):
        self.dataset = dataset
        self.steps_per_epoch = steps_per_epoch
        self.read = read

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        """Reads one epoch.

        Args:
            epoch: counted from 0; with the seed it determines the order and the augmentation.
            start_step: optimizer steps to leave out at the beginning, for a run that was interrupted.

        Returns:
            (steps_per_epoch - start_step) * accumulation micro-batches. One epoch is read at a time.
        """
        return self.read(epoch, start_step)


class ValLoader:
    """The batches of this process's share of an evaluation; every process gets equally many."""

    def __init__(self, dataset: Any, batches: int, read: Callable[[], Iterator[Any]]):
        self.dataset = dataset
        self.batches = batches
        self.read = read

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        return self.read()


def train_loader(config: Config, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> TrainLoader:
    """Opens the training split for one process.

    Args:
        config: data, augment, train.batch_size (b), train.accumulation (A), train.seed.
        rank: this process, 0 to world_size - 1.
        world_size: number of processes.
        pin_memory: whether batches lie in page-locked memory, for quicker copies to a GPU.

    Returns:
        A loader with `dataset`, `steps_per_epoch` and `epoch(epoch, start_step)`.

    Raises:
        UsageError: unfit data, another number of classes than configured, a global batch above the number of images,
            mixup or cutmix with an odd batch.
    """
    train = config.train
    check_mixup(config)
    workers = worker_count(config)
    if is_stream(config.data):
        stream = open_stream(config, "train", rank=rank, world_size=world_size)
        steps = count_steps(config, len(stream), world_size)

        def read_stream(epoch: int, start_step: int) -> Iterator[Batch]:
            skip, stop = start_step * train.accumulation, steps * train.accumulation
            return read_training(stream, epoch, skip, stop, workers=workers, pin_memory=pin_memory)

        return TrainLoader(stream, steps, read_stream)
    dataset = open_dataset(config.data, config.augment, "train", in_chans=config.model.in_chans, seed=train.seed)
    check_classes(config, dataset.classes, dataset.source.targets, dataset.notes)
    if isinstance(dataset.source, Shards):
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size)) / world_size
        dataset.source = dataset.source.with_cache_note(train.batch_size * train.accumulation * world_size, here)
    return training_batches(
        config,
        dataset,
        collate=partial(collate, scale=normalisation(config.data, config.model.in_chans)),
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def training_batches(
    config: Config,
    dataset: Any,
    *,
    collate: Callable[[list[Any]], Any],
    rank: int,
    world_size: int,
    pin_memory: bool,
    groups: Sequence[int] | None = None,
) -> TrainLoader:
    """The micro-batches of one process from rows that can be read in any order.

    Args:
        config: data.workers, train.batch_size (b), train.accumulation (A), train.seed.
        dataset: `dataset[index, sample_seed]` is a row, whatever the order.
        collate: makes a batch of rows.
        rank, world_size, pin_memory: as for `train_loader`.
        groups: a number for each row: a step takes its rows from one group, as long as there are enough.

    Raises:
        UsageError: a global batch above the number of images.
    """
    steps = count_steps(config, len(dataset), world_size)
    shards = shards_of(dataset)
    order = TrainOrder(config, len(dataset), steps, rank=rank, world_size=world_size, groups=groups, shards=shards)
    loader = make_loader(
        dataset,
        order,
        collate=collate,
        workers=worker_count(config),
        pin_memory=pin_memory,
        persistent=True,
        patience=60 * config.train.timeout_minutes,
    )

    def read(epoch: int, start_step: int) -> Iterator[Any]:
        order.epoch, order.start_step = epoch, start_step
        return iter(loader)

    return TrainLoader(dataset, steps, read)


def val_loader(
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    batch_size: int | None = None,
    trained: Trained | None = None,
) -> ValLoader:
    """Opens the validation split for one process.

    Args:
        config: data, and train.batch_size unless batch_size is given.
        rank: this process, 0 to world_size - 1.
        world_size: number of processes.
        pin_memory: whether batches lie in page-locked memory.
        batch_size: images a process and forward pass.
        trained: the classes of the model that is evaluated, which decide about labels; None: the training split's.

    Returns:
        An iterable of batches with `len()`, equal on every process.

    Raises:
        UsageError: unfit data, or another number of classes than configured.
    """
    batch_size = batch_size or config.train.batch_size
    workers = worker_count(config)
    if is_stream(config.data):
        stream = open_stream(config, "val", rank=rank, world_size=world_size, batch_size=batch_size, trained=trained)
        batches = ceil_div(ceil_div(len(stream), world_size), batch_size)
        return ValLoader(stream, batches, lambda: read_evaluation(stream, workers=workers, pin_memory=pin_memory))
    settings: Any = dict(in_chans=config.model.in_chans, seed=config.train.seed, trained=trained)
    dataset = open_dataset(config.data, None, "val", **settings)
    check_classes(config, dataset.classes, dataset.source.targets, dataset.notes)
    return evaluation_batches(
        config,
        dataset,
        collate=collate,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
        batch_size=batch_size,
    )


def evaluation_batches(
    config: Config,
    dataset: Any,
    *,
    collate: Callable[[list[Any]], Any],
    rank: int,
    world_size: int,
    pin_memory: bool,
    batch_size: int | None = None,
) -> ValLoader:
    """One process's share of an evaluation, from rows that can be read in any order.

    Args:
        config: data.workers, and train.batch_size unless batch_size is given.
        dataset: `dataset[index, 0]` is a row; index `PADDING` asks for a blank one of weight 0.
        collate: makes a batch of rows.
        rank, world_size, pin_memory, batch_size: as for `val_loader`.
    """
    batch_size = batch_size or config.train.batch_size
    order = ValOrder(len(dataset), batch_size, rank=rank, world_size=world_size, shards=shards_of(dataset))
    loader = make_loader(
        dataset,
        order,
        collate=collate,
        workers=worker_count(config),
        pin_memory=pin_memory,
        persistent=False,
        patience=60 * config.train.timeout_minutes,
    )
    return ValLoader(dataset, len(order), lambda: iter(loader))


class TrainOrder(Sampler[list[tuple[int, int]]]):
    """The keys (index, sample_seed) of this process's micro-batches; set `epoch` and `start_step` before reading."""

    def __init__(
        self,
        config: Config,
        size: int,
        steps: int,
        *,
        rank: int,
        world_size: int,
        groups: Sequence[int] | None = None,
        shards: Shards | None = None,
    ):
        self.size = size
        self.groups = groups
        self.shards = shards
        self.steps = steps
        self.batch_size = config.train.batch_size
        self.accumulation = config.train.accumulation
        self.seed = config.train.seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_step = 0

    def __len__(self) -> int:
        return (self.steps - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # the epoch is fixed now: a generator would look it up when the first batch is asked for
        return self.keys(self.epoch, self.start_step)

    def keys(self, epoch: int, start_step: int) -> Iterator[list[tuple[int, int]]]:
        """Key lists, one a micro-batch."""
        order = self.order(seed_of(self.seed, epoch))
        ahead = 0 if self.shards is None else self.shards.steps_ahead(self.step) * self.accumulation
        first, last = start_step * self.accumulation, self.steps * self.accumulation
        for micro in range(first, last):
            if ahead and self.shards is not None:
                # of the first batches all, then of each the one so far ahead
                for later in range(micro, micro + ahead) if micro == first else (micro + ahead,):
                    self.shards.fetch_soon(self.rows(order, later).tolist() if later < last else [])
            yield [(index, seed_of(self.seed, epoch, index)) for index in self.rows(order, micro).tolist()]

    @property
    def step(self) -> int:
        """Images a step."""
        return self.batch_size * self.accumulation * self.world_size

    def order(self, seed: int) -> torch.Tensor:
        """All images in the order of an epoch."""
        if self.shards is not None:
            return self.shards.order(seed, self.step)
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed))
        return order if self.groups is None else torch.tensor(by_group(order.tolist(), self.groups, self.step))

    def rows(self, order: torch.Tensor, micro: int) -> torch.Tensor:
        """Those of a micro-batch of this process."""
        # (s A + a) W + r, as step s begins at s A W micro-batches
        first = (micro * self.world_size + self.rank) * self.batch_size
        return order[first : first + self.batch_size]


def by_group(order: list[int], groups: Sequence[int], size: int) -> list[int]:
    """An order of rows, of which each `size` in a row are of one group, but for what is left of each at the end."""
    waiting: dict[int, list[int]] = {}
    found: list[int] = []
    for index in order:
        rows = waiting.setdefault(groups[index], [])
        rows.append(index)
        if len(rows) == size:
            found += waiting.pop(groups[index])
    return found + [index for rows in waiting.values() for index in rows]


class ValOrder(Sampler[list[tuple[int, int]]]):
    """The keys of this process's share of an evaluation."""

    def __init__(self, size: int, batch_size: int, *, rank: int, world_size: int, shards: Shards | None = None):
        share = ceil_div(size, world_size)
        indices = [rank + row * world_size for row in range(share)]
        self.keys = [(index if index < size else PADDING, 0) for index in indices]
        self.batch_size = batch_size
        self.shards = shards

    def __len__(self) -> int:
        return ceil_div(len(self.keys), self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.keys), self.batch_size):
            if self.shards is not None:
                # one shard after the other: the next one while this one is read
                self.shards.fetch_next(self.keys[first][0])
            yield self.keys[first : first + self.batch_size]


def shards_of(dataset: Any) -> Shards | None:
    """The shards that a dataset's rows lie in, if they do."""
    source = getattr(dataset, "source", None)
    return source if isinstance(source, Shards) else None


def make_loader(
    dataset: Any,
    order: Sampler[Any],
    *,
    collate: Callable[[list[Any]], Any],
    workers: int,
    pin_memory: bool,
    persistent: bool,
    patience: float = 0.0,
) -> Loader:
    """torch's loader over an order of key lists; after `patience` seconds without a batch it raises RuntimeError."""
    return Loader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=start_worker,
        timeout=patience if workers else 0,
        # its own, so that starting an epoch leaves the training's generator alone
        generator=torch.Generator(),
    )


def worker_count(config: Config) -> int:
    """Reading processes for this process: as configured, else the cores at hand shared out, at most 8."""
    workers = config.data.workers
    if workers is not None:
        if workers > (most := max(LEAST_BOUND, WORKERS_A_CORE * cores())):
            raise UsageError(
                f"data.workers={workers} on {cores()} cores; expected at most {most}, and 8 is usually enough"
            )
        return workers
    return min(MOST_WORKERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def count_steps(config: Config, images: int, world_size: int) -> int:
    """Whole optimizer steps in an epoch."""
    train = config.train
    global_batch = train.batch_size * train.accumulation * world_size
    if global_batch > images:
        raise UsageError(
            f"the global batch {global_batch} (train.batch_size {train.batch_size} x accumulation {train.accumulation}"
            f" x {world_size} processes) is larger than the {images} training images; lower "
            f"{'train.batch_size' if train.accumulation == 1 else 'train.batch_size or train.accumulation'}"
        )
    return images // global_batch


def check_mixup(config: Config) -> None:
    """Refuses settings that mixup and cutmix cannot draw from: they pair the rows of a batch."""
    augment, batch_size = config.augment, config.train.batch_size
    if batch_size % 2 and (augment.mixup > 0 or augment.cutmix > 0 or augment.cutmix_minmax):
        raise UsageError(
            f"train.batch_size={batch_size} is odd, but mixup and cutmix need pairs; set it to {batch_size + 1},"
            " or set augment.mixup=0 augment.cutmix=0"
        )
    # timm draws whole pixels from the first side to before the second
    size, shares = config.data.img_size, augment.cutmix_minmax
    if shares and int(size * shares[0]) >= int(size * shares[1]):
        raise UsageError(
            f"augment.cutmix_minmax={list(shares)} leaves no side to draw from at data.img_size={size}; expected shares"
            " that are a pixel apart, such as [0.2, 0.8]"
        )
