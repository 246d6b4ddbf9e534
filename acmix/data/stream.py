"""Splits that can only be read from front to back: webdataset shards and Hugging Face streams, through timm.

What a stream cannot give: the order and the augmentation depend on the number of processes and workers; a resumed run
reads past the rows it has seen; webdataset leaves unreadable images out without naming them. Evaluation is exact all
the same: every process reads the whole split and keeps each world_size-th row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.shared_count import SharedCount
from torch.utils.data import IterableDataset, get_worker_info

from acmix.config import Config, Data
from acmix.data.batch import Batch, Scale, collate
from acmix.data.classes import Trained, labels
from acmix.data.dataset import PADDING, Row, ceil_div, check_classes, seed_of, seeded
from acmix.data.huggingface import need_package
from acmix.data.image import evaluation_transform, normalisation
from acmix.data.pixels import to_rgb
from acmix.data.readers import Loader
from acmix.data.sources import data_folder, split_name
from acmix.data.training import training_transform
from acmix.data.worker import start_worker
from acmix.errors import UsageError

# what timm, webdataset and datasets raise on data that is not what they expect
STREAM_ERRORS = (RuntimeError, OSError, ValueError, KeyError, TypeError, AssertionError)


def is_stream(data: Data) -> bool:
    """Whether `data.format` names a reader without an index."""
    return data.format.lower().startswith(("wds/", "hfids/"))


class StreamDataset(IterableDataset[Any]):
    """A split of a stream, as one process reads it; yields rows, or a message where it cannot go on."""

    notes: Sequence[str] = ()

    def __init__(
        self,
        reader: Any,
        where: str,
        split: str,
        transform: Callable[[Any], Any],
        *,
        config: Config,
        batch_size: int,
        rank: int,
        world_size: int,
    ):
        self.reader = reader
        self.where = where
        self.split = split
        self.transform = transform
        self.to_rgb = partial(to_rgb, background=config.data.background_rgb, white=config.data.white)
        self.num_classes = config.model.num_classes
        self.blank_shape = (config.model.in_chans, config.data.img_size, config.data.img_size)
        self.seed = config.train.seed
        self.patience = 60 * config.train.timeout_minutes
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = SharedCount()
        self.classes = class_names(reader) or [str(label) for label in range(self.num_classes)]
        # the label for each of the stream's own; None: the same
        self.table: list[int] | None = None
        # of training's images, which are bytes
        self.scale = normalisation(config.data, config.model.in_chans) if split == "train" else None

    def __len__(self) -> int:
        return self.reader.num_samples

    def name(self, index: int) -> str:
        """A row's place: streams have no file names to look up."""
        return f"{self.where} row {index}"

    def start(self, epoch: int) -> int:
        """Prepares the reader for an epoch and returns the seed of its workers."""
        seed = seed_of(self.seed, epoch)
        self.epoch.value = epoch
        self.reader.set_epoch(epoch)
        # the reader builds its pipeline again, so that the shuffle is a function of the epoch
        self.reader.ds, self.reader.worker_info, self.reader.worker_seed = None, None, seed
        return seed

    def __iter__(self) -> Iterator[Row | str]:
        try:
            yield from self.training_rows() if self.split == "train" else self.evaluation_rows()
        except STREAM_ERRORS as error:
            # a message, as an exception that crosses processes turns into a page of traceback
            reason = " ".join(str(error).split()) or type(error).__name__
            yield f"cannot read {self.where}: {reason}"

    def training_rows(self) -> Iterator[Row]:
        """Rows of this process and worker, as many as timm's reader gives."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for count, (picture, target) in enumerate(self.reader):
            index = count * workers + worker
            with seeded(seed_of(self.seed, self.epoch.value, self.rank, index)):
                image, erased = self.transform(self.to_rgb(picture))
            # outside, or generators of another epoch could be put back here
            yield Row(image, self.label(target), 1.0, -1, index, erased)

    def evaluation_rows(self) -> Iterator[Row]:
        """Every world_size-th row; a missing row counts as an unreadable file, of weight 0."""
        index = -1
        for index, (picture, target) in enumerate(self.reader):
            if index >= len(self):
                raise ValueError(f"it holds more than the declared {len(self)} samples")
            if index % self.world_size == self.rank:
                yield Row(self.transform(self.to_rgb(picture)), self.label(target), 1.0, -1, index)
        share = ceil_div(len(self), self.world_size)
        for missing in range(index + 1, share * self.world_size):
            if missing % self.world_size == self.rank:
                failed, asked = (missing, missing) if missing < len(self) else (-1, PADDING)
                yield Row(torch.zeros(self.blank_shape), 0, 0.0, failed, asked)

    def follow(self, trained: Trained) -> None:
        """Gives rows the labels that a model means."""
        self.table = labels(self.classes, trained, self.where)
        self.classes = list(trained.names)

    def label(self, target: Any) -> int:
        if not 0 <= int(target) < (self.num_classes if self.table is None else len(self.table)):
            hint = "; labels count from 0" if int(target) == self.num_classes else ""
            raise ValueError(f"label {target} is out of range; model.num_classes={self.num_classes}{hint}")
        return int(target) if self.table is None else self.table[int(target)]


def open_stream(
    config: Config,
    split: str,
    *,
    rank: int,
    world_size: int,
    batch_size: int | None = None,
    trained: Trained | None = None,
) -> StreamDataset:
    """Opens a split of a stream.

    Args:
        config: data.format is wds/ or hfids/NAME; data.train_split and val_split name splits, shards
            (`train-{00..15}.tar|20000`), and may end in `|samples` where the reader cannot know how many there are.
        split: "train" or "val".
        rank: this process.
        world_size: number of processes.
        batch_size: rows a batch; None: train.batch_size.
        trained: the classes of a model, whose labels the rows then have; None: the stream's own.

    Returns:
        The split, for `read_training` or `read_evaluation`.

    Raises:
        UsageError: nothing to read, an unknown number of samples, another number of classes than configured.
    """
    data, training = config.data, split == "train"
    batch_size = batch_size or config.train.batch_size
    reader = stream_reader(config, split, batch_size)
    # training shares the shards out; evaluation has every process read all of them, see above
    reader.dist_rank, reader.dist_num_replicas = (rank, world_size) if training else (0, 1)
    if training:
        transform = training_transform(data, config.augment, config.model.in_chans)
    else:
        transform = evaluation_transform(data, config.model.in_chans)
    where = f"{data.format} split {split_name(data, split)!r}"
    stream = StreamDataset(
        reader, where, split, transform, config=config, batch_size=batch_size, rank=rank, world_size=world_size
    )
    if trained is not None:
        stream.follow(trained)
    check_classes(config, stream.classes)
    if training and world_size > shard_count(reader, world_size):
        raise UsageError(
            f"{where} has {shard_count(reader, 0)} shards for {world_size} processes; expected a shard per process"
        )
    return stream


def stream_reader(config: Config, split: str, batch_size: int) -> Any:
    """timm's reader, of a split that is there and whose number of samples is known."""
    data = config.data
    name = split_name(data, split)
    samples = None
    if data.format.lower().startswith("wds/"):
        if "://" not in data.dir and not data.dir.startswith("pipe:"):
            data_folder(data)
    elif "|" in name:
        name, _, count = name.partition("|")
        samples = int(count) if count.isdigit() else None
    need_package(data)
    try:
        reader: Any = create_reader(
            data.format,
            root=data.dir or None,
            split=name,
            is_training=split == "train",
            batch_size=batch_size,
            seed=config.train.seed,
            num_samples=samples,
            # the picture as it is: our own conversion keeps 16-bit grey
            input_img_mode="",
        )
    except STREAM_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot open {data.format} split {name!r}: {reason}") from None
    if not reader.num_samples:
        raise UsageError(f"the number of samples of {data.format} split {name!r} is unknown; write {name}|SAMPLES")
    return reader


def class_names(reader: Any) -> list[str]:
    """What a stream calls its classes, by label; nothing where it has no names."""
    if reader.class_to_idx:
        return sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
    if not hasattr(reader, "builder"):
        return []
    try:
        # a folder of images tells its classes where it is opened, after timm asked
        features = reader.builder.as_streaming_dataset(split=reader.split).features
    except STREAM_ERRORS:
        return []
    return list(getattr((features or {}).get("label"), "names", None) or [])


def shard_count(reader: Any, default: int) -> int:
    """Number of webdataset shards; a Hugging Face stream does not tell before it is read."""
    return len(reader.split_info.filenames) if hasattr(reader, "split_info") else default


def read_training(
    stream: StreamDataset, epoch: int, skip: int, stop: int, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Reads one epoch of this process's micro-batches, from number `skip` to before number `stop`."""
    # a worker without a shard of its own would have nothing to read
    workers = min(workers, shard_count(stream.reader, workers * stream.world_size) // stream.world_size)
    count = 0
    for batch in batches(stream, epoch, workers=workers, pin_memory=pin_memory):
        if count >= skip:
            yield batch
        count += 1
        if count == stop:
            return
    raise UsageError(
        f"{stream.where} ended after {count} of {stop} batches; it holds fewer than the declared {len(stream)} samples,"
        " or fewer shards than data.workers: correct the number of samples, or lower data.workers"
    )


def read_evaluation(stream: StreamDataset, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Reads this process's share of an evaluation, in one worker at most: which rows are whose follows their order."""
    yield from batches(stream, 0, workers=min(workers, 1), pin_memory=pin_memory)


def batches(stream: StreamDataset, epoch: int, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Reads a stream once."""
    generator = torch.Generator().manual_seed(stream.start(epoch))
    stream.reader.set_loader_cfg(num_workers=workers)
    loader = Loader(
        stream,
        batch_size=stream.batch_size,
        collate_fn=partial(collate_or_message, scale=stream.scale),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        timeout=stream.patience if workers else 0,
        generator=generator,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise UsageError(batch)
        yield batch


def collate_or_message(rows: list[Row | str], scale: Scale | None) -> Batch | str:
    """A batch, or the message that one of the rows is."""
    messages = [row for row in rows if isinstance(row, str)]
    return messages[0] if messages else collate(rows, scale)
