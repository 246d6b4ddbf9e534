"""Files that are either the old one or the whole new one, whenever the process dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acmix.errors import UsageError
from acmix.train.words import output_option


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to; when the block succeeds, it replaces `path`.

    A process that is killed in the block leaves `.NAME.PID.tmp` behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            # the new name must not reach the disk before the bytes do
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> Path:
    """Writes a file at once and returns its path."""
    with replaced_whole(path) as unfinished:
        unfinished.write_bytes(content)
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from a folder in the block, where operating system and file system have such locks.

    A process that is killed in the block lets go, and leaves an empty `.held` behind.

    Raises:
        UsageError: another process holds the folder.
    """
    lock = folder / ".held"
    try:
        import fcntl  # not on Windows

        file = open(lock, "wb")  # noqa: SIM115  (closed below)
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            # not flock, which the processes that read images would inherit and might keep
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UsageError(
                    f"another process is training into {folder}; wait until it ends, or "
                    f"choose another {output_option()}"
                ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def make_place(file: Path | None) -> None:
    """Makes the folder of a file that is to be written later; None is no file.

    Raises:
        UsageError: no file can be written there.
    """
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; choose another place") from None
    if file.is_dir():
        raise UsageError(f"{file} is a folder; expected a file")
    if not os.access(file if file.is_file() else file.parent, os.W_OK):
        raise UsageError(f"cannot write {file}: permission denied; choose another place")
