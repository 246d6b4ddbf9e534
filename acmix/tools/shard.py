"""`acmix data shard`: writes the images of a data set into tar files, as `acmix.data.shards` reads them.

The images of a split are shuffled once, by the seed, and cut into shards in advance. So several processes write shards
in any order, and a shard has the same bytes whenever it is written. What a shard holds stands in `.unfinished/` until
all are there; after a kill, the same command keeps the shards whose SHA-256 is right and writes the others. One call
at a time holds the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acmix.config import Data
from acmix.data.classes import Trained, labels_follow_names, open_trained
from acmix.data.dataset import seed_of
from acmix.data.fingerprint import fingerprint
from acmix.data.shards.index import FORMAT, INFO, MOST_SHARDS, SOME_LEFT_OUT, Index, Info, index_bytes, read_info
from acmix.data.shards.source import Shards
from acmix.data.sources import Files, Source, Tar, has_split, open_only, open_source
from acmix.errors import UsageError
from acmix.names import to_json, whole
from acmix.tools.in_parallel import done
from acmix.tools.shard_file import UNFINISHED, Part, ShardWriter, row_bytes
from acmix.train.files import write_atomically
from acmix.train.lock import NAME as HELD
from acmix.train.lock import held
from acmix.train.terminal import new_console, say

# images a shard, and what a tar adds to an image: two headers, a label, and zeros up to whole blocks
SAMPLES, OVERHEAD, BLOCK = 1000, 3 * 512, 512
SPLITS = ("train", "val")
MB = 10**6


def shard(
    data: Data,
    destination: Path,
    *,
    splits: Sequence[str] = (),
    samples: int | None = None,
    size: float | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Iterator[str]:
    """Writes shards, and yields a line for each split when it is done.

    Args:
        data: where the images are: dir, format, train_split, val_split. The shards' splits are train and val.
        destination: folder of the shards; made where it is missing.
        splits: of "train" and "val"; none: those that there are.
        samples: images a shard.
        size: in place of it, MB a shard.
        seed: of the shuffle.
        workers: processes; None: the cores at hand.

    Raises:
        UsageError: the images or the folder cannot be used.
    """
    if samples is not None and size is not None:
        raise UsageError("--samples and --size both say how large a shard is; give one of them")
    labels = "by name" if labels_follow_names(data) else "by number"
    sources = dict(open_splits(data, splits))
    make_folder(destination)
    told = partial(say, new_console(stderr=True))
    with held(destination, told, doing="writing shards into", other="folder"):
        check_folder(destination)
        remove_torn(destination)
        for split, source in sources.items():
            # of classes that are named by number alone, as in a list file
            yield write_split(
                source, split, destination, labels, samples=samples, size=size, seed=seed, workers=workers
            )


def open_splits(data: Data, splits: Sequence[str]) -> Iterator[tuple[str, Source]]:
    """The splits that are asked for, or those that there are.

    Raises:
        UsageError: one is asked for that is neither train nor val, or cannot be opened.
    """
    if wrong := [split for split in splits if split not in SPLITS]:
        raise UsageError(f"--split {wrong[0]}: expected train or val; --train-split and --val-split name the source's")
    if data.format != "auto":
        first = open_source(data, "train")
        trained = Trained(first.classes, True, f"the split {data.train_split!r}")
        for split in splits or SPLITS:
            yield split, first if split == "train" else open_trained(data, split, trained)
        return
    there = [split for split in SPLITS if has_split(data, split)]
    if not there and set(splits) <= {"train"}:
        yield "train", open_only(data)
        return
    for split in splits or there:
        yield split, open_source(data, split, advise=False)


def make_folder(destination: Path) -> None:
    """Makes the folder of the shards; refuses one that holds anything else.

    Raises:
        UsageError: says why it cannot be used.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(destination, error) from None
    check_folder(destination)


def check_folder(destination: Path) -> None:
    """Refuses a folder that holds anything else than shards.

    Raises:
        UsageError: it does, or it cannot be read.
    """
    try:
        found = {*os.listdir(destination)} - {HELD}
    except OSError as error:
        raise cannot_write(destination, error) from None
    if found and UNFINISHED not in found and read_info(destination) is None:
        raise UsageError(f"{destination} holds other files; choose an empty folder for the shards")


def remove_torn(destination: Path) -> None:
    """Removes what a killed call was writing; the folder is held, so nobody writes it any more."""
    for file in (*(destination / UNFINISHED).glob("*.tmp"), *destination.glob(".*.tmp")):
        with suppress(OSError):
            file.unlink()


def cannot_write(destination: Path, error: OSError) -> UsageError:
    """What to say of a folder that cannot be written into."""
    return UsageError(f"cannot write into {destination}: {error.strerror or error}; choose another folder")


def write_split(
    source: Source,
    split: str,
    destination: Path,
    labels: str,
    *,
    samples: int | None,
    size: float | None,
    seed: int,
    workers: int | None,
) -> str:
    """Writes the shards of a split, its index and its part of `_info.json`; a line on them."""
    keys = keys_of(source)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed_of(seed))).numpy()
    bounds = cut_by_size(byte_sizes(source)[order], size) if size else cut_by_count(len(order), samples or SAMPLES)
    if len(bounds) - 1 > MOST_SHARDS:
        raise UsageError(f"{len(bounds) - 1} shards are too many; expected at most {MOST_SHARDS}, so larger ones")
    told = to_json([FORMAT, fingerprint(keys, [source.targets]), source.classes, labels, seed, bounds])
    plan = hashlib.sha256(told.encode()).hexdigest()
    before = read_info(destination)
    check_before(before, split, plan, source, labels, destination)
    if before is not None and split in before.splits:
        return f"{split}: is there already, of the same images; `acmix data check {destination}` looks it over"
    try:
        (destination / UNFINISHED).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(destination, error) from None
    writer = ShardWriter(source, split, order, bounds, destination, plan)
    parts: list[Part] = []
    lengths = np.diff(bounds).tolist()
    for part in done(writer, f"writing {split}", lengths, workers):
        if isinstance(part, str):
            raise UsageError(part)
        parts.append(part)
    try:
        return finish(writer, parts, keys, seed, labels, before)
    except OSError as error:
        raise UsageError(
            f"cannot write into {destination}: {error.strerror or error}; the same command goes on from there"
        ) from None


def check_before(before: Info | None, split: str, plan: str, source: Source, labels: str, destination: Path) -> None:
    """Refuses to mix shards of different images, classes or cuts in a folder.

    Raises:
        UsageError: says which.
    """
    if before is None:
        return
    if before.classes != whole(source.classes) or before.labels != labels:
        raise UsageError(f"{destination} holds shards of other classes; choose another folder")
    if split in before.splits and before.splits[split].plan != plan:
        raise UsageError(
            f"{destination} holds shards of {split} of other images, or of another --seed, --samples or --size; choose "
            "another folder"
        )


def finish(
    writer: ShardWriter, parts: Sequence[Part], keys: Sequence[bytes], seed: int, labels: str, before: Info | None
) -> str:
    """Writes the index and `_info.json` where all shards are there, and a line on them."""
    folder, split = writer.folder, writer.split
    left_out = [each for part in parts for each in part.left_out]
    used = [(number, part) for number, part in enumerate(parts) if part.positions]
    if not used:
        raise UsageError(
            f"none of the {len(writer.order)} images of {split} can be read: {left_out[0].name}: {left_out[0].reason}"
        )
    rows = writer.order[np.concatenate([part.positions for _, part in used])]
    index = Index(
        list(writer.source.classes),
        np.array(keys, dtype=np.bytes_)[rows],
        writer.source.targets[rows],
        np.repeat(np.arange(len(used)), [len(part.positions) for _, part in used]),
        np.concatenate([part.starts for _, part in used]),
        np.concatenate([part.sizes for _, part in used]),
    )
    content = index_bytes(index)
    file = write_atomically(folder / f"{split}-index.safetensors", content)
    told: dict[str, Any] = {
        "name": split,
        "num_samples": len(rows),
        "filenames": [writer.file(number).name for number, _ in used],
        "shard_lengths": [len(part.positions) for _, part in used],
        "shard_bytes": [part.bytes for _, part in used],
        "shard_sha256": [part.sha256 for _, part in used],
        "index": {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "seed": seed,
        "plan": writer.plan,
        "left_out_count": len(left_out),
        "left_out": [each.model_dump() for each in left_out[:SOME_LEFT_OUT]],
    }
    splits = {} if before is None else {name: each.model_dump() for name, each in before.splits.items()}
    info = {"format": FORMAT, "classes": index.classes, "labels": labels, "splits": {**splits, split: told}}
    write_atomically(folder / INFO, (to_json(info, indent=1, ensure_ascii=False) + "\n").encode())
    remove_others(folder, split, told["filenames"])
    for pattern in (f"{split}-*", f".{split}-*"):
        for note in (folder / UNFINISHED).glob(pattern):
            note.unlink(missing_ok=True)
    with suppress(OSError):
        # unless another split is unfinished
        (folder / UNFINISHED).rmdir()
    return in_words(split, told, left_out)


def remove_others(folder: Path, split: str, names: Sequence[str]) -> None:
    """Removes the shards that are none of the split's: empty ones, and those of a killed call with other settings.

    Whoever reads `SPLIT-*.tar`, as webdataset does, would meet images twice.
    """
    for file in folder.glob(f"{split}-*.tar"):
        if re.fullmatch(r"\d{6}\.tar", file.name.removeprefix(f"{split}-")) and file.name not in names:
            file.unlink(missing_ok=True)


def in_words(split: str, told: dict[str, Any], left_out: Sequence[Any]) -> str:
    """What was written, in one line."""
    size = sum(told["shard_bytes"]) / MB
    shards = "1 shard" if len(told["filenames"]) == 1 else f"{len(told['filenames']):,} shards"
    line = f"{split}: {told['num_samples']:,} images in {shards}, {size:,.1f} MB"
    if not left_out:
        return line
    some = ", ".join(f"{each.name} ({each.reason})" for each in left_out[:3]) + ", …" * (len(left_out) > 3)
    return f"{line}; {len(left_out):,} unreadable left out: {some}"


def keys_of(source: Source) -> list[bytes]:
    """What an image is called in the index: its path below the data, or what the reader calls it."""
    keys = getattr(source, "keys", None)
    return keys() if keys else [os.fsencode(source.name(row)) for row in range(len(source))]


def byte_sizes(source: Source) -> np.ndarray:
    """The bytes of each image; 0 of one that is not there."""
    if isinstance(source, Tar):
        return source.index.sizes
    if isinstance(source, Shards):
        return source.sizes
    if isinstance(source, Files):
        return np.array([size_of(source.name(row)) for row in range(len(source))], dtype=np.int64)
    return np.array([len(row_bytes(source, row)[0]) for row in range(len(source))], dtype=np.int64)


def size_of(path: str) -> int:
    """The bytes of a file; 0 where it is not there."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def cut_by_count(images: int, samples: int) -> list[int]:
    """Where shards of so many images begin, and the end."""
    return [*range(0, images, samples), images]


def cut_by_size(sizes: np.ndarray, size: float) -> list[int]:
    """Where shards of at most so many MB begin, but for those of a single larger image; and the end."""
    bounds, most, filled = [0], size * MB, 0
    for position, each in enumerate((-(-sizes // BLOCK) * BLOCK + OVERHEAD).tolist()):
        if filled and filled + each > most:
            bounds.append(position)
            filled = 0
        filled += each
    return [*bounds, len(sizes)]
