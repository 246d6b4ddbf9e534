"""One shard: written aside, compared with what is known of it, renamed."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import ValidationError

from acmix.data.look import bytes_of, look
from acmix.data.shards.index import Checked, Count, LeftOutImage, Sha256
from acmix.data.sources import Source
from acmix.names import whole
from acmix.train.files import write_atomically

UNFINISHED = ".unfinished"
PIECE = 2**20


class Part(Checked):
    """What a shard holds, until the index of the whole split is written: an entry an image.

    Args:
        plan: of the split that it belongs to.
        bytes, sha256: of the file.
        positions: of its images in the shuffled split; those that could not be read are left out.
        starts, sizes: where their bytes lie.
        left_out: the others.
    """

    plan: str
    bytes: Count
    sha256: Sha256
    positions: list[Count]
    starts: list[Count]
    sizes: list[Count]
    left_out: list[LeftOutImage]


@dataclass(frozen=True)
class ShardWriter:
    """The shards of a split as pieces of work, in any process.

    Args:
        source: the images.
        split: its name for the files.
        order: the source's rows in the shuffled order, (n,).
        bounds: position of each shard's first image, and n.
        folder: for the shards.
        plan: what tells this split, order and cut from every other.
    """

    source: Source
    split: str
    order: np.ndarray
    bounds: list[int]
    folder: Path
    plan: str

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def file(self, number: int) -> Path:
        """Where a shard lies in the end."""
        return self.folder / f"{self.split}-{number:06d}.tar"

    def __getitem__(self, number: int) -> Part | str:
        """A shard that is there now: kept, or written; else a line on why it is not."""
        file, note = self.file(number), self.folder / UNFINISHED / f"{self.split}-{number:06d}.json"
        try:
            part = read_part(note, self.plan)
            if part is None or not is_whole(file, part):
                part = self.write(number, file)
                write_atomically(note, part.model_dump_json().encode())
            return part
        except OSError as error:
            where = error.filename or file
            return (
                f"cannot write {os.fsdecode(where)}: {error.strerror or error}; once there is room and permission, the "
                "same command goes on from the shards that are there"
            )

    def write(self, number: int, file: Path) -> Part:
        """Writes a shard."""
        end_with_the_command()
        aside = self.folder / UNFINISHED / f"{file.name}.{os.getpid()}.tmp"
        part: dict[str, Any] = {"plan": self.plan, "positions": [], "starts": [], "sizes": [], "left_out": []}
        try:
            with open(aside, "wb") as opened:
                hashed = Hashed(opened)
                with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[arg-type]
                    for position in range(self.bounds[number], self.bounds[number + 1]):
                        self.add(tar, position, part)
                opened.flush()
                # the new name must not reach the disk before the bytes do
                os.fsync(opened.fileno())
            end_with_the_command()
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
        return Part.model_validate({**part, "bytes": hashed.size, "sha256": hashed.digest.hexdigest()})

    def add(self, tar: tarfile.TarFile, position: int, part: dict[str, Any]) -> None:
        """Adds an image and its label, or says in `part` why not."""
        row = int(self.order[position])
        content, reason = row_bytes(self.source, row)
        looked = look(content) if not reason else None
        reason = looked.reason if looked else reason
        if reason or looked is None:
            # as they can be shown: JSON takes no bytes that are no UTF-8
            part["left_out"].append({"name": whole(self.source.name(row)), "reason": whole(reason)})
            return
        key = f"{position:09d}"
        part["positions"].append(position)
        # behind the header of 512 bytes
        part["starts"].append(tar.offset + tarfile.BLOCKSIZE)
        part["sizes"].append(len(content))
        add_member(tar, f"{key}.{looked.extension}", content)
        add_member(tar, f"{key}.cls", str(self.source.target(row)).encode())


def row_bytes(source: Source, row: int) -> tuple[bytes, str]:
    """The bytes of a source's row, or why there are none."""
    try:
        opened = source.open(row)
    except OSError as error:
        return b"", error.strerror or str(error)
    return bytes_of(opened)


def end_with_the_command() -> None:
    """Refuses to write on where the command was killed: it may have been given again, with other settings."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise OSError("the command was killed")


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file without time, owner or anything else that is not the same every time."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class Hashed:
    """A file that takes the SHA-256 of what is written into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Writes all of it."""
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)
        return len(content)

    def tell(self) -> int:
        """How many bytes are written."""
        return self.size


def read_part(note: Path, plan: str) -> Part | None:
    """What is known of a shard of a plan; None where that is nothing, or no more to be trusted."""
    try:
        part = Part.model_validate_json(note.read_bytes())
    except (OSError, ValidationError):
        return None
    return part if part.plan == plan else None


def is_whole(file: Path, part: Part) -> bool:
    """Whether a shard is there as it was written."""
    try:
        return os.path.getsize(file) == part.bytes and sha256_of(file) == part.sha256
    except OSError:
        return False


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
