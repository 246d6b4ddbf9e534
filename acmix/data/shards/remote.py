"""Shards from a URL: each is fetched once a machine, into a cache of bounded size.

A file of the cache has its SHA-256 for a name, so that a changed shard is another file. It is written beside, compared
with the index, and renamed; a lock keeps processes from fetching it twice. Where the cache is full, the files that were
opened longest ago go; a process that has one of them open goes on reading it.

`http://` and `https://` are read by Python itself, every other scheme by fsspec and its packages.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from acmix.errors import UsageError
from acmix.extras import install

# seconds to wait before each further try, and without an answer
WAITS = (1.0, 3.0, 10.0, 30.0)
PATIENCE = 60.0
PIECE = 2**20
# modules that fsspec's schemes use, and what their errors descend from
OF_PACKAGES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
# answers of a server that may be others a moment later
PASSING = (408, 425, 429, 500, 502, 503, 504)
GIB = 2**30


class CannotFetch(UsageError):
    """A shard cannot be had: the run ends, as the images in it are not unreadable."""

    def __init__(self, message: str) -> None:
        # from a reading process it comes with that process's traceback before it
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class Passing(Exception):
    """What may go well a moment later."""


def is_url(place: str) -> bool:
    """Whether a data folder is an address."""
    return "://" in place


def without_secrets(url: str) -> str:
    """A URL for messages: without a password, and without what follows a question mark."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def joined(url: str, name: str) -> str:
    """The address of a file in a folder; a query stays at the end."""
    if urlsplit(url).scheme in ("http", "https"):
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{name}", parts.query, ""))
    return f"{url.rstrip('/')}/{name}"


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
        return self.tried(name, lambda file: file.read(most + 1), WAITS[:2])

    def fetch(self, wanted: Wanted) -> Path:
        """A file in the cache, fetched where it is not there yet.

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
            with locked(self.folder / f".{wanted.sha256}.lock"):
                if not self.is_there(place, wanted.size):
                    self.tried(wanted.name, lambda file: self.take(file, wanted, place))
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
            os.utime(place)
        except OSError:
            return False
        return True

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
                while left and (piece := file.read(min(PIECE, left))):
                    digest.update(piece)
                    left -= len(piece)
                    with of_the_cache():
                        copy.write(piece)
                        copy.flush()
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
        raise CannotFetch(
            f"cannot fetch {without_secrets(joined(self.url, name))}: {reason} ({len(waits) + 1} tries in "
            f"{time.monotonic() - began:.0f} s); the same command goes on from the last checkpoint"
        )


class OfTheCache(Exception):
    """Carries an OSError of the cache past those of the server."""


@contextmanager
def of_the_cache() -> Iterator[None]:
    """Says that an OSError is the cache's."""
    try:
        yield
    except OSError as error:
        raise OfTheCache(error) from None


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """Opens a file at a URL.

    Raises:
        CannotFetch: it cannot be had, and no later try will change that.
        Passing: another try may.
    """
    shown = without_secrets(url)
    try:
        with stream(url) as file:
            yield file
    except (UsageError, Passing, OfTheCache):
        raise
    except urllib.error.HTTPError as error:
        if error.code in PASSING:
            raise Passing(f"HTTP status {error.code}") from None
        raise CannotFetch(f"cannot fetch {shown}: HTTP status {error.code}; check the address") from None
    except FileNotFoundError:
        raise CannotFetch(f"there is no {shown}; check the address") from None
    except PermissionError as error:
        raise CannotFetch(f"cannot fetch {shown}: {error}; check the credentials") from None
    except ImportError as error:
        # fsspec says which package a scheme needs
        raise CannotFetch(f"cannot fetch {shown}: {error}; run {install('remote')}") from None
    except ValueError as error:
        raise CannotFetch(f"cannot fetch {shown}: {error}; check the address") from None
    except passing_errors() as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        said = getattr(why, "strerror", None) or str(why)
        raise Passing(" ".join(said.split()) or type(error).__name__) from None


def passing_errors() -> tuple[type[Exception], ...]:
    """What a server's trouble may raise: the packages behind fsspec have errors of their own."""
    of_packages = [getattr(sys.modules[name], kind) for name, kind in OF_PACKAGES if name in sys.modules]
    return (OSError, EOFError, RuntimeError, http.client.HTTPException, *of_packages)


def stream(url: str) -> Any:
    """An open file, as a context."""
    if urlsplit(url).scheme in ("http", "https"):
        return urllib.request.urlopen(urllib.request.Request(url), timeout=PATIENCE)
    try:
        import fsspec
    except ImportError:
        raise CannotFetch(f"{without_secrets(url)} needs the package fsspec; run {install('remote')}") from None
    return fsspec.open(url, "rb")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keeps other processes and threads of this machine out; where the file system has no locks, nobody."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(ImportError, OSError):
            import fcntl  # not on Windows

            # flock, as a lock of lockf would not keep threads of one process apart
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
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
