"""Files that are either the old one or the whole new one, whenever the process dies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from acmix.errors import UsageError


@contextmanager
def replaced_whole(path: Path, *, keep: int | None = None) -> Iterator[Path]:
    """Gives a place beside `path` to write to; when the block succeeds, it replaces `path`.

    A process that is killed in the block leaves `.NAME.PID.tmp` behind.

    Args:
        path: the file.
        keep: how many of it there are then: of NAME.pt, the one before is NAME-1.pt, and so on. None: no other file is
            touched, whatever it is called.
    """
    unfinished = beside(path, "tmp")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            # the new name must not reach the disk before the bytes do
            os.fsync(file.fileno())
        if keep is not None:
            make_room(path, keep)
        os.replace(unfinished, path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def beside(path: Path, end: str) -> Path:
    """The hidden file .NAME.PID.END of this process, its name cut where it would have more than 255 bytes."""
    end = f".{os.getpid()}.{end}"
    return path.with_name(f".{os.fsdecode(os.fsencode(path.name)[: 254 - len(end)])}{end}")


def versions(path: Path) -> list[Path]:
    """The file and those from before it that are there, the newest first."""
    pattern = re.compile(re.escape(path.stem) + r"-([1-9][0-9]{0,3})" + re.escape(path.suffix))
    try:
        names = [(int(match[1]), name) for name in os.listdir(path.parent) if (match := pattern.fullmatch(name))]
    except OSError:
        return []
    older = [path.with_name(name) for _, name in sorted(names)]
    return [each for each in (path, *older) if each.is_file()]


def make_room(path: Path, keep: int) -> None:
    """Names the versions of a file that is to be replaced by their age; the newest keeps its own name too until then.

    So at each moment a whole file has the name.
    """
    places = [path, *(path.with_name(f"{path.stem}-{age}{path.suffix}") for age in range(1, keep))]
    for younger, older in reversed([*pairwise(places[1:])]):
        if younger.is_file():
            os.replace(younger, older)
    if keep > 1 and path.is_file():
        again = beside(path, "again.tmp")
        again.unlink(missing_ok=True)
        try:
            os.link(path, again)
        except OSError:
            # a file system without links
            os.replace(path, again)
        os.replace(again, places[1])
    # where fewer are to be kept than before; not a copy that somebody has called NAME-7.pt
    age = keep
    while (older := path.with_name(f"{path.stem}-{age}{path.suffix}")).is_file():
        older.unlink()
        age += 1


def sync_folder(folder: Path) -> None:
    """Brings the names of a folder's files to the disk, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_atomically(path: Path, content: bytes) -> Path:
    """Writes a file at once and returns its path."""
    with replaced_whole(path) as unfinished:
        unfinished.write_bytes(content)
    return path


def make_place(file: Path | None) -> None:
    """Makes the folder of a file that is to be written later; None is no file.

    Raises:
        UsageError: no file can be written there.
    """
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise UsageError(f"{file} is a folder; expected a file")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise UsageError(f"cannot write {file}: permission denied; choose another place")
        if not file.exists():
            # some places, such as /proc, let nobody write, whatever they say
            tried = beside(file, "tmp")
            tried.touch()
            tried.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; choose another place") from None
