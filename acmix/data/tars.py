"""A split in one tar file: read in place, by the bytes where each image begins and ends.

A class is a folder in the tar, or a tar in the tar. What is no image is passed over as in a folder.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from acmix.data.scan import LeftOut, is_image, is_passed_over, kind_of, natural_key
from acmix.errors import UsageError

# a larger tar takes minutes to go through: what was found is kept beside it
INDEX_FROM_BYTES = 10 * 1024**3
# most tars around an image
DEEPEST = 16


@dataclass(frozen=True)
class Member:
    """An image in a tar: its name, the folder it lies in, and where its bytes are."""

    name: str
    folder: str
    start: int
    size: int


@dataclass
class Found:
    """What going through a tar gives."""

    members: list[Member] = field(default_factory=list)
    # (name, folder, what it points to)
    links: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class TarIndex:
    """The images of a tar file in order; `names`, `labels`, `starts` and `sizes` have an entry an image."""

    classes: list[str]
    names: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    notes: list[str]


def read_tar(file: Path) -> TarIndex:
    """Finds the images of an uncompressed tar file.

    Raises:
        UsageError: no tar, no images in it, or images outside of any folder.
    """
    try:
        state = os.stat(file)
        return indexed(file, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from None


# training asks for its own split, and evaluation for the classes of both
@lru_cache(maxsize=4)
def indexed(file: Path, size: int, changed: int) -> TarIndex:
    """`read_tar` of a file in a certain state."""
    kept = file.with_name(f"_{file.stem}_index.npz")
    if size > INDEX_FROM_BYTES:
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(kept) as saved:
            if saved["state"].tolist() == [size, changed]:
                columns = {key: saved[key] for key in ("names", "labels", "starts", "sizes")}
                return TarIndex(decoded(saved["classes"]), notes=decoded(saved["notes"]), **columns)
    index = go_through(file)
    if size > INDEX_FROM_BYTES:
        # where the folder cannot be written to, the next start goes through the tar again
        with suppress(OSError):
            texts = {"classes": as_array(index.classes), "notes": as_array(index.notes)}
            columns = {key: getattr(index, key) for key in ("names", "labels", "starts", "sizes")}
            partial = kept.with_name(f".{kept.name}.{os.getpid()}.npz")
            np.savez(partial, state=np.array([size, changed]), **texts, **columns)
            os.replace(partial, kept)
    return index


def go_through(file: Path) -> TarIndex:
    """Reads every header of a tar."""
    found = Found()
    try:
        with open(file, "rb") as content:
            gather(content, found, inside=PurePosixPath(), start=0)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{file} is not a tar file: {error}; expected <class>/<image> in it") from None
    members = [*found.members, *followed(found)]
    if not members:
        raise UsageError(f"{file} holds no images; expected <class>/<image> in it")
    if any(not member.folder for member in members):
        raise UsageError(f"{file} holds images outside of any folder; expected <class>/<image> in it")
    classes = sorted({member.folder for member in members}, key=natural_key)
    members.sort(key=lambda member: natural_key(member.name))
    number = {name: label for label, name in enumerate(classes)}
    return TarIndex(
        classes,
        as_array([member.name for member in members]),
        np.array([number[member.folder] for member in members], dtype=np.int64),
        np.array([member.start for member in members], dtype=np.int64),
        np.array([member.size for member in members], dtype=np.int64),
        found.left_out.notes(),
    )


def gather(content: IO[bytes], found: Found, *, inside: PurePosixPath, start: int, depth: int = 1) -> None:
    """Adds the images of a tar whose first byte is number `start` of the file, and those of the tars in it.

    Raises:
        tarfile.TarError: it is none, or the `depth` of tars around it is too large.
    """
    if depth > DEEPEST:
        raise tarfile.ReadError(f"tars lie more than {DEEPEST} deep in each other")
    with tarfile.open(fileobj=content, mode="r:") as tar:
        for entry in tar:
            # tarfile would keep every entry it has seen
            vars(tar)["members"] = []
            place = PurePosixPath(entry.name)
            if entry.isdir() or any(map(is_passed_over, place.parts)):
                continue
            folder = (inside / place).parent.name
            if entry.issym() or entry.islnk():
                target = entry.linkname if entry.islnk() else os.path.join(place.parent, entry.linkname)
                found.links.append((entry.name, folder, os.path.normpath(target)))
                continue
            first = start + entry.offset_data
            if entry.isreg() and place.suffix.lower() == ".tar":
                inner: Any = tar.extractfile(entry)
                gather(inner, found, inside=inside / place.with_suffix(""), start=first, depth=depth + 1)
            elif entry.isreg() and not entry.issparse() and is_picture(tar, entry):
                found.members.append(Member(entry.name, folder, first, entry.size))
            else:
                found.left_out.no_images.append(entry.name)


def is_picture(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bool:
    """Whether a member is an image, by its name or by its bytes."""
    kind = kind_of(entry.name)
    if kind is not None:
        return kind
    content: Any = tar.extractfile(entry)
    # its header alone: a member may be larger than memory
    return is_image(content)


def followed(found: Found) -> Iterator[Member]:
    """The images that links in the tar point to, under the links' own names."""
    if not found.links:
        return
    by_name = {os.path.normpath(member.name): member for member in found.members}
    for name, folder, target in found.links:
        if target in by_name:
            yield Member(name, folder, by_name[target].start, by_name[target].size)
        elif kind_of(name):
            found.left_out.no_images.append(name)


class Pieces:
    """Reads pieces of a file in any process: each one names its place, so that a fork shares no position."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.handle: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "handle": None}

    def __del__(self) -> None:
        if self.handle is not None:
            os.close(self.handle)

    def read(self, start: int, size: int) -> io.BytesIO:
        """A piece as an open file; OSError where the file is gone or has become shorter."""
        if self.handle is None:
            self.handle = os.open(self.file, os.O_RDONLY)
        # before memory is taken for it
        is_whole = os.fstat(self.handle).st_size >= start + size
        content = os.pread(self.handle, size, start) if is_whole else b""
        if len(content) < size:
            raise OSError("the tar file is truncated")
        return io.BytesIO(content)


def as_array(names: list[str]) -> np.ndarray:
    """Names as one array of bytes, which reading processes share instead of copying a million strings."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def decoded(names: np.ndarray) -> list[str]:
    """The names in such an array."""
    return [os.fsdecode(bytes(name)) for name in names]
