"""A split of shards, read in any order: from a folder, or from a URL by way of the cache."""

from __future__ import annotations

import io
import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acmix.config import Data
from acmix.data.shards.address import CannotFetch, check_address
from acmix.data.shards.index import INFO, LONGEST_INFO, Info, SplitInfo, checked, parse_info, read_index, read_info
from acmix.data.shards.order import lane_count, shard_order
from acmix.data.shards.remote import GIB, TRIES, Remote, Wanted, cache_folder
from acmix.errors import UsageError
from acmix.names import is_url

# shards that a process keeps open, and fetches at a time
OPEN, AT_A_TIME = 256, 4
# shards that are shuffled together, from a folder and from a URL: fewer are then needed at a time
WINDOW, REMOTE_WINDOW = 4, 1


@dataclass(frozen=True)
class Place:
    """A folder of shards, on disk or behind a URL."""

    name: str
    info: Info
    root: Path
    remote: Remote | None = None

    def split(self, name: str) -> SplitInfo | None:
        """What `_info.json` says of a split."""
        return self.info.splits.get(name)


def find_shards(data: Data) -> Place | None:
    """The shards in the data folder, or at the URL; None where the folder holds none of ours.

    Raises:
        UsageError: there are none at the URL, or what is there is damaged.
    """
    if data.format != "auto" or not data.dir:
        return None
    if not is_url(data.dir):
        root = Path(data.dir).expanduser()
        info = read_info(root)
        return None if info is None else Place(str(root), info, root)
    check_address(data.dir)
    remote = Remote(data.dir, cache_folder(), int(data.cache_gib * GIB))
    name = data.shown_dir
    info = parse_info(remote.read(INFO, LONGEST_INFO), f"{name}/{INFO}")
    if info is None:
        raise UsageError(f"{name}/{INFO} is not of `acmix data shard`; foreign shards are read by data.format=wds/")
    return Place(name, info, remote.folder, remote)


class ShardFiles:
    """Reads pieces of shards in any process: each names its place, so that a fork shares no position."""

    def __init__(self, place: Place, split: SplitInfo) -> None:
        self.place, self.split = place, split
        self.handles: dict[int, int] = {}
        self.start_anew()

    def start_anew(self) -> None:
        """Nothing is asked for yet; what is open stays so."""
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.asked: set[int] = set()
        self.queue: queue.SimpleQueue[int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            for handle in self.handles.values():
                os.close(handle)

    def name(self, shard: int) -> str:
        """Where a shard lies, for messages."""
        return os.path.join(self.place.name, self.split.filenames[shard])

    def path(self, shard: int, *, insist: bool = True) -> Path:
        """A shard on this machine, fetched where that is needed.

        Raises:
            CannotFetch: it cannot be had.
        """
        if self.place.remote is None:
            return self.place.root / self.split.filenames[shard]
        return self.place.remote.fetch(self.wanted(shard), insist=insist)

    def wanted(self, shard: int) -> Wanted:
        """A shard as one fetches it."""
        return Wanted(self.split.filenames[shard], self.split.shard_bytes[shard], self.split.shard_sha256[shard])

    def read(self, shard: int, start: int, size: int) -> io.BytesIO:
        """A piece as an open file.

        Raises:
            OSError: the shard is gone or has become shorter.
            CannotFetch: it cannot be had.
        """
        if self.process != os.getpid():
            # of a fork: the parent's threads are not here, and may have held the lock
            self.start_anew()
        with self.lock:
            handle = self.handle(shard)
            # before memory is taken for it
            if os.fstat(handle).st_size < start + size:
                raise OSError("the shard is truncated")
            content = os.pread(handle, size, start)
        if len(content) < size:
            raise OSError("the shard is truncated")
        return io.BytesIO(content)

    def handle(self, shard: int) -> int:
        """A shard, open; of the open ones, the one that was used longest ago may be closed for it."""
        handle = self.handles.pop(shard, None)
        if handle is None:
            while len(self.handles) >= OPEN:
                os.close(self.handles.pop(next(iter(self.handles))))
            handle = self.opened(shard)
        self.handles[shard] = handle
        return handle

    def opened(self, shard: int) -> int:
        """A shard, newly opened."""
        for _ in range(TRIES):
            try:
                return os.open(self.path(shard), os.O_RDONLY)
            except FileNotFoundError:
                if self.place.remote is None:
                    raise
                # another process dropped it from the cache just now
        raise CannotFetch(f"{self.name(shard)} is dropped from the cache again and again; raise data.cache_gib")

    def fetch_soon(self, shards: Sequence[int]) -> None:
        """Has threads fetch shards, in this order; whoever reads a shard asks again."""
        if self.process != os.getpid():
            self.start_anew()
        if self.queue is None:
            self.queue = queue.SimpleQueue()
            for _ in range(AT_A_TIME):
                # daemons: nobody waits for them at the end
                threading.Thread(target=self.fetch_all, args=(self.queue,), daemon=True).start()
        for shard in shards:
            if shard not in self.asked:
                self.asked.add(shard)
                self.queue.put(shard)

    def fetch_all(self, asked: queue.SimpleQueue[int]) -> None:
        """Fetches what is asked for."""
        while True:
            shard = asked.get()
            with suppress(CannotFetch):
                self.path(shard, insist=False)
            self.asked.discard(shard)


@dataclass(frozen=True)
class Shards:
    """A split of shards."""

    classes: list[str]
    files: ShardFiles
    # one array of bytes, so that reading processes share it instead of copying a million strings
    names: np.ndarray
    targets: np.ndarray
    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    window: int = WINDOW
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def name(self, index: int) -> str:
        return f"{self.files.name(int(self.shards[index]))}:{os.fsdecode(bytes(self.names[index]))}"

    def open(self, index: int) -> io.BytesIO:
        return self.files.read(int(self.shards[index]), int(self.starts[index]), int(self.sizes[index]))

    def keys(self) -> list[bytes]:
        """What tells each image from every other: its path where it came from."""
        return self.names.tolist()

    def part(self, chosen: np.ndarray, notes: Sequence[str]) -> Shards:
        """The chosen rows, in their order, in the same classes."""
        columns = {key: getattr(self, key)[chosen] for key in ("names", "targets", "shards", "starts", "sizes")}
        return replace(self, notes=notes, **columns)

    def order(self, seed: int, step: int) -> torch.Tensor:
        """The order of an epoch; see `acmix.data.shards.order`."""
        return shard_order(self.shards, seed=seed, step=step, window=self.window)

    def fetch_soon(self, indices: Sequence[int]) -> None:
        """Fetches the shards of these rows in the background, where they lie behind a URL."""
        if self.files.place.remote is not None and len(indices):
            self.files.fetch_soon(list(dict.fromkeys(self.shards[list(indices)].tolist())))

    def fetch_next(self, index: int) -> None:
        """Fetches the shard of a row, and the one after it."""
        after = index + len(self) // len(self.files.split.filenames)
        self.fetch_soon([each for each in (index, after) if 0 <= each < len(self)])

    def steps_ahead(self, step: int) -> int:
        """How many steps before they are read shards are to be fetched: as long as a shard lasts."""
        if self.files.place.remote is None:
            return 0
        shards = len(self.files.split.filenames)
        return max(1, len(self) // shards * lane_count(shards, step, self.window) // step)

    def with_cache_note(self, step: int, share: float) -> Shards:
        """The same, with a line where the cache is smaller than the shards that this machine reads at a time.

        Args:
            step: images a step.
            share: of the processes, those on this machine.
        """
        remote, sizes = self.files.place.remote, self.files.split.shard_bytes
        lanes = max(1.0, share * lane_count(len(sizes), step, self.window))
        needed = min(sum(sizes), lanes * (self.window + 1) * sum(sizes) / len(sizes))
        if remote is None or needed <= remote.limit:
            return self
        note = (
            f"data.cache_gib={remote.limit / GIB:.3g} is less than the {needed / GIB:.3g} GiB of shards that are read "
            "at a time here, so shards will be fetched again and again; raise it"
        )
        return replace(self, notes=[*self.notes, note])


def open_shards(place: Place, data: Data, split: str) -> Shards:
    """Opens a split.

    Args:
        place: as found.
        data: gives shuffle_shards.
        split: its name.

    Raises:
        UsageError: there is no such split, its index is damaged, or a shard is missing or of another size.
    """
    info = place.split(split)
    if info is None:
        there = ", ".join(sorted(place.info.splits)) or "none"
        raise UsageError(f"{place.name} has no shards of a split {split!r}; there are: {there}")
    if place.remote is None:
        check_sizes(place.root, info)
        index = read_index(place.root / info.index.file, place.info, info)
    else:
        content = place.remote.content(Wanted(info.index.file, info.index.bytes, info.index.sha256))
        index = checked(content, place.info, info, f"{place.name}/{info.index.file}")
    window = shuffled_together(data)
    columns = (index.names, index.labels, index.shards, index.starts, index.sizes)
    return Shards(index.classes, ShardFiles(place, info), *columns, window=window, notes=left_out_notes(info))


def shuffled_together(data: Data) -> int:
    """How many shards' images are shuffled together, where the data are shards."""
    return data.shuffle_shards or (REMOTE_WINDOW if is_url(data.dir) else WINDOW)


def left_out_notes(info: SplitInfo) -> list[str]:
    """What was unreadable when the shards were written."""
    if not info.left_out_count:
        return []
    some = ", ".join([each.name for each in info.left_out[:3]] + ["…"] * (info.left_out_count > 3))
    images = "1 unreadable image was" if info.left_out_count == 1 else f"{info.left_out_count} unreadable images were"
    return [f"{images} left out of the shards: {some}"]


def check_sizes(root: Path, info: SplitInfo) -> None:
    """Refuses shards that are not there whole.

    Raises:
        UsageError: names the first of them.
    """
    for name, size in zip(info.filenames, info.shard_bytes, strict=True):
        file = root / name
        try:
            if not os.path.isfile(file):
                raise UsageError(f"there is no shard {file}, which {INFO} names; copy it too")
            found = os.path.getsize(file)
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from None
        if found != size:
            raise UsageError(f"the shard {file} has {found} bytes, and {INFO} says {size}; copy it again")
