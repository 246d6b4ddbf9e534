"""`acmix data check`: looks every image of a data set over, in parallel processes.

Every image is decoded to its last byte. Copies are found by the bytes of the files; a copy that was stored anew is
another file. Shards are also compared with their checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acmix.config import Data
from acmix.data.look import look
from acmix.data.scan import walk_images
from acmix.data.shards.source import Shards, find_shards
from acmix.data.sources import Files, Source, data_folder
from acmix.errors import UsageError
from acmix.tools.in_parallel import done
from acmix.tools.shard import open_splits
from acmix.tools.shard_file import row_bytes, sha256_of

# images that one process looks at in a row
AT_A_TIME = 64
# what is worth a look: a side below so many pixels, more pixels than so many, one side so many times the other
TINY, HUGE, NARROW = 16, 50_000_000, 8
DEEP, CMYK, ANIMATED = 1, 2, 4


class Images(NamedTuple):
    """What was found, an entry an image; width and height are 0 where `reasons` says why it is unreadable."""

    digests: np.ndarray  # (n, 16) uint8
    bytes: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    kinds: np.ndarray  # DEEP + CMYK + ANIMATED
    reasons: dict[int, str]


@dataclass(frozen=True)
class LookAll:
    """The images of a split as pieces of work."""

    source: Source

    def __len__(self) -> int:
        return -(-len(self.source) // AT_A_TIME)

    def rows(self, number: int) -> range:
        """The rows of a piece."""
        return range(number * AT_A_TIME, min((number + 1) * AT_A_TIME, len(self.source)))

    def __getitem__(self, number: int) -> Images:
        digests, numbers, reasons = [], [], {}
        for row in self.rows(number):
            content, reason = row_bytes(self.source, row)
            seen = look(content)
            if reason or seen.reason:
                reasons[row] = reason or seen.reason
            kind = DEEP * seen.deep + CMYK * seen.cmyk + ANIMATED * seen.animated
            numbers.append((len(content), seen.width, seen.height, kind))
            digests.append(hashlib.blake2b(content, digest_size=16).digest())
        sizes, widths, heights, kinds = np.array(numbers, dtype=np.int64).T
        whole = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        return Images(whole, sizes, widths, heights, kinds, reasons)


@dataclass(frozen=True)
class CompareShards:
    """The shards of a split as pieces of work: a line for one that is not as it was written, else nothing."""

    source: Shards

    def __len__(self) -> int:
        return len(self.source.files.split.filenames)

    def __getitem__(self, number: int) -> str:
        files = self.source.files
        try:
            found = sha256_of(files.path(number))
        except OSError as error:
            return f"{files.name(number)}: {error.strerror or error}"
        is_whole = found == files.split.shard_sha256[number]
        return "" if is_whole else f"{files.name(number)}: its SHA-256 is not the one in _info.json"


@dataclass
class Split:
    """A split that was looked over.

    Args:
        name: of it.
        source: its images; None where it cannot be opened.
        images: what was found.
        broken: lines on shards, and on the split as a whole.
        has_labels: whether its labels mean anything.
    """

    name: str
    source: Source | None = None
    images: Images | None = None
    broken: list[str] = field(default_factory=list)
    has_labels: bool = True

    def names(self, rows: Any) -> list[str]:
        """The names of rows."""
        assert self.source is not None
        return [self.source.name(int(row)) for row in rows]


def check(data: Data, splits: Sequence[str] = (), workers: int | None = None) -> list[Split]:
    """Looks a data set over.

    Args:
        data: as for `acmix.tools.shard.shard`; also folders in COCO's and ADE20K's formats, whose images alone are
            looked at.
        splits: of "train" and "val"; none: all.
        workers: processes; None: the cores at hand.

    Raises:
        UsageError: there is nothing to look at.
    """
    found = []
    for split in opened(data, splits):
        if split.source is not None:
            if isinstance(split.source, Shards) and split.source.files.place.remote is None:
                work = CompareShards(split.source)
                lengths = split.source.files.split.shard_lengths
                split.broken += [line for line in done(work, f"comparing {split.name}", lengths, workers) if line]
            looking = LookAll(split.source)
            lengths = [len(looking.rows(number)) for number in range(len(looking))]
            pieces = list(done(looking, f"looking at {split.name}", lengths, workers))
            split.images = together(pieces)
        found.append(split)
    return found


def together(pieces: Sequence[Images]) -> Images:
    """The pieces of a split as one."""
    names = ("digests", "bytes", "widths", "heights", "kinds")
    digests, sizes, widths, heights, kinds = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in names
    )
    reasons = {row: reason for piece in pieces for row, reason in piece.reasons.items()}
    return Images(digests, sizes, widths, heights, kinds, reasons)


def opened(data: Data, splits: Sequence[str]) -> Iterator[Split]:
    """The splits, also such as cannot be opened."""
    plain = [] if data.format != "auto" or find_shards(data) else list(plain_folders(data_folder(data)))
    if plain:
        if wrong := [split for split in splits if split not in dict(plain)]:
            raise UsageError(f"--split {wrong[0]}: {data.dir} has {', '.join(dict(plain))}; choose one of them")
        for name, folder in plain:
            if splits and name not in splits:
                continue
            paths = np.array([path.encode("utf-8", "surrogateescape") for path in sorted(walk_images(folder))])
            if len(paths):
                yield Split(name, Files(["images"], folder, paths, np.zeros(len(paths), np.int64)), has_labels=False)
        return
    place = find_shards(data)
    if place is None:
        for name, source in open_splits(data, splits):
            yield Split(name, source)
        return
    # one after the other, as one of them may be damaged
    for name in splits or sorted(place.info.splits):
        update = {"train_split": name} if name not in ("train", "val") else {}
        try:
            [(_, source)] = open_splits(data.model_copy(update=update), ["val" if name == "val" else "train"])
        except UsageError as error:
            yield Split(name, broken=[str(error)])
        else:
            yield Split(name, source)


def plain_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of images in COCO's or ADE20K's layout."""
    for file in sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        if (root / name).is_dir():
            yield name, root / name
    if (root / "annotations").is_dir() and (root / "images").is_dir():
        for folder in sorted((root / "images").iterdir()):
            if folder.is_dir():
                yield folder.name, folder


@dataclass(frozen=True)
class Copies:
    """Files of the same bytes.

    Args:
        images: (split, row) of each.
        splits, labels: how many they lie in.
    """

    images: list[tuple[int, int]]
    splits: int
    labels: int


def copies(splits: Sequence[Split]) -> list[Copies]:
    """The groups of files with the same bytes, in any split; empty files are unreadable and in no group."""
    digests, places = [], []
    for number, split in enumerate(splits):
        if split.images is not None:
            rows = np.flatnonzero(split.images.bytes > 0)
            digests.append(split.images.digests[rows])
            places.append(np.stack([np.full(len(rows), number), rows], axis=1))
    if not digests:
        return []
    whole, where = np.concatenate(digests), np.concatenate(places)
    order = np.lexsort(whole.T[::-1])
    ends = np.flatnonzero((whole[order][1:] != whole[order][:-1]).any(axis=1)) + 1
    found = []
    for group in np.split(order, ends):
        if len(group) > 1:
            images = [(int(number), int(row)) for number, row in where[np.sort(group)]]
            labels = {splits[number].source.target(row) for number, row in images}  # type: ignore[union-attr]
            found.append(Copies(images, len({number for number, _ in images}), len(labels)))
    return sorted(found, key=lambda each: each.images)
