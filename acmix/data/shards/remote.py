"""Shards from a URL: each is fetched once a machine, into a cache of bounded size.

A file of the cache has its SHA-256 for a name, so that a changed shard is another file. It is written beside, compared
with the index, and renamed; a lock keeps processes from fetching it twice. Where the cache is full, the files that were
opened longest ago go; a process that has one of them open goes on reading it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from acmix.data.shards.address import CannotFetch, OfTheCache, Passing, joined, opened, pieces
from acmix.names import without_secrets

# seconds to wait before each further try
WAITS = (1.0, 3.0, 10.0, 30.0)
# of a file that others drop from the cache, or that is damaged in it
TRIES = 3
GIB = 2**30


def cache_folder() -> Path:
    """Where fetched shards lie: in ACMIX_CACHE, or the user's cache."""
    named = os.environ.get("ACMIX_CACHE")
    if not named:
        base = os.environ.get("XDG_CACHE_HOME", "")
        named = os.path.join(base if os.path.isabs(base) else "~/.cache", "acmix")
    return Path(named).expanduser() / "shards"


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its plain name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Remote:
    """A folder of shards at a URL.

    Args:
        url: as the user gave it.
        folder: the cache.
        limit: most bytes in the cache.
    """

    url: str
    folder: Path
    limit: int

    def read(self, name: str, most: int) -> bytes:
        """The first bytes of a file, `most + 1` at most; never from the cache.

        Raises:
            CannotFetch: the server does not give it.
        """
        # at the start, where somebody waits
        return self.tried(name, lambda file: b"".join(pieces(file, most + 1)), WAITS[:2])

    def content(self, wanted: Wanted) -> bytes:
        """A whole file by way of the cache, compared with its SHA-256 there too.

        Raises:
            CannotFetch: as for `fetch`.
        """
        for _ in range(TRIES):
            place = self.fetch(wanted)
            with suppress(FileNotFoundError):
                content = place.read_bytes()
                if hashlib.sha256(content).hexdigest() == wanted.sha256:
                    return content
                place.unlink()
        raise CannotFetch(f"{wanted.name} is dropped from the cache, or damaged in it, again and again: {self.folder}")

    def fetch(self, wanted: Wanted, *, insist: bool = True) -> Path:
        """A file in the cache, fetched where it is not there yet; unless one insists, it is asked for once.

        Raises:
            CannotFetch: the server does not give it, it is another file than the index says, or there is no room.
        """
        place = self.folder / wanted.sha256
        if self.is_there(place, wanted.size):
            return place
        if wanted.size > self.limit:
            raise CannotFetch(
                f"{wanted.name} has {wanted.size / GIB:.3g} GiB, and data.cache_gib is {self.limit / GIB:.3g}; raise it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / f".{wanted.sha256}.lock") as is_alone:
                if not self.is_there(place, wanted.size):
                    if is_alone:
                        self.remove_torn(wanted)
                    self.tried(wanted.name, lambda file: self.take(file, wanted, place), None if insist else ())
        except OSError as error:
            raise CannotFetch(
                f"cannot write into the cache {self.folder}: {error.strerror or error}; free some space, lower "
                "data.cache_gib, or set ACMIX_CACHE to another folder"
            ) from None
        return place

    def is_there(self, place: Path, size: int) -> bool:
        """Whether a file is in the cache; it then counts as just used."""
        try:
            if os.path.getsize(place) != size:
                return False
        except OSError:
            return False
        # but in a cache of somebody else
        with suppress(OSError):
            os.utime(place)
        return True

    def remove_torn(self, wanted: Wanted) -> None:
        """Removes what killed processes have left of a file, whose lock this one has."""
        for left in self.folder.glob(f".{wanted.sha256}.*.tmp"):
            with suppress(OSError):
                left.unlink()

    def take(self, file: IO[bytes], wanted: Wanted, place: Path) -> None:
        """Copies an open file into the cache."""
        with of_the_cache(), locked(self.folder / ".room.lock"):
            make_room(self.folder, self.limit - wanted.size)
        unfinished = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        digest, left = hashlib.sha256(), wanted.size
        try:
            with of_the_cache():
                unfinished.touch()
            with open(unfinished, "wb") as copy:
                for piece in pieces(file, wanted.size):
                    digest.update(piece)
                    left -= len(piece)
                    with of_the_cache():
                        copy.write(piece)
                        copy.flush()
                with of_the_cache():
                    # the new name must not reach the disk before the bytes do
                    os.fsync(copy.fileno())
            if left:
                raise Passing(f"it ended after {wanted.size - left} of {wanted.size} bytes")
            if digest.hexdigest() != wanted.sha256:
                raise Passing("its SHA-256 is not the one in the index")
            with of_the_cache():
                os.replace(unfinished, place)
                with locked(self.folder / ".room.lock"):
                    # several files may have come at a time
                    make_room(self.folder, self.limit)
        finally:
            unfinished.unlink(missing_ok=True)

    def tried(self, name: str, use: Any, waits: Sequence[float] | None = None) -> Any:
        """What comes of an open file, after several tries where something may pass."""
        began, reason = time.monotonic(), ""
        waits = WAITS if waits is None else waits
        for wait in (0.0, *waits):
            time.sleep(wait)
            try:
                with opened(joined(self.url, name)) as file:
                    return use(file)
            except OfTheCache as error:
                raise error.args[0] from None
            except Passing as error:
                reason = str(error)
        tries = "1 try" if not waits else f"{len(waits) + 1} tries"
        raise CannotFetch(
            f"cannot fetch {without_secrets(joined(self.url, name))}: {reason} ({tries} in "
            f"{time.monotonic() - began:.0f} s); once it can be had, the same command goes on"
        )


@contextmanager
def of_the_cache() -> Iterator[None]:
    """Says that an OSError is the cache's."""
    try:
        yield
    except OSError as error:
        raise OfTheCache(error) from None


@contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Keeps other processes and threads out, and says whether it does: some file systems have no locks."""
    handle, is_alone = os.open(file, os.O_RDWR | os.O_CREAT, 0o600), False
    try:
        with suppress(ImportError, OSError):
            import fcntl  # not on Windows

            # flock, as a lock of lockf would not keep threads of one process apart
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_alone = True
        yield is_alone
    finally:
        with suppress(ImportError, OSError):
            import fcntl

            # said aloud, as a process that was forked meanwhile holds the file open too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def make_room(folder: Path, limit: int) -> None:
    """Drops the files that were used longest ago until the rest has so many bytes at most."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                if len(entry.name) == 64 and entry.is_file(follow_symlinks=False):
                    found.append((state.st_mtime_ns, state.st_size, entry.path))
                elif entry.name.endswith((".tmp", ".lock")) and time.time() - state.st_mtime > 24 * 3600:
                    # of a process that was killed, or a shard that nobody reads any more
                    os.unlink(entry.path)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size
