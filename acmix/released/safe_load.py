"""Reads a checkpoint from any source: nothing in the file is executed, no class of the file is imported.

A `.pth` file is a pickle, and unpickling may run any code. torch's `weights_only` unpickler builds tensors and plain
containers and refuses everything else by name. The released training code also pickles its configuration, a
`yacs.config.CfgNode`; that one name is read as a plain dictionary, so yacs need not be installed.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from acmix.errors import UsageError
from acmix.released.digest import DIGEST, digest_of

# what our own checkpoints say of themselves
FORMAT = "acmix"
# What reading a broken or hostile file was seen to raise: torch has no single exception for it.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    OverflowError,
    MemoryError,
    struct.error,
)


# bytes that any archive may unpack to, and beyond them so many times its own size; code of TorchScript is compressed
LEAST_UNPACKED, MOST_TIMES = 2**26, 4

# values in a checkpoint, and how deep one lies in others: lists, each of which holds the one before twice, are small in
# a file
MOST_VALUES, MOST_DEPTH = 2_000_000, 64
# of pickles, some tens for a tensor: they are read in Python
MOST_OPCODES = 1_000_000
# a magic number, a version, facts on the machine, the content, the keys of its storages
OLDER_PICKLES = 5
# makes any number of bytes out of a few
BYTEARRAYS = ("builtins bytearray", "__builtin__ bytearray")

INSTEAD = "copy it again, or use another checkpoint"

# how files begin that a download leaves in the place of a checkpoint
NOT_CHECKPOINTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype html": "is a web page, not a checkpoint; download the file itself",
    b"<html": "is a web page, not a checkpoint; download the file itself",
}


def safe_load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint without executing anything from it.

    Args:
        path: a `.safetensors` file, or a file that `torch.save` wrote (`.pt`, `.pth`).

    Returns:
        The dictionary in the file, on the CPU, made of tensors, numbers, strings and plain containers alone. A
        safetensors file gives `{"model": tensors}` beside what its metadata key `acmix` holds.

    Raises:
        UsageError: there is no such file, it is damaged or no checkpoint, or it asks for code to be run or for memory
            without bound.
    """
    # a shell leaves the ~ of model.checkpoint=~/FILE as it is
    path = Path(os.path.expanduser(path))
    # not path.is_dir(), which raises where a name is too long
    if os.path.isdir(path):
        best = path / "checkpoints" / "best.pt"
        mend = f"give {best}" if best.is_file() else "expected a checkpoint file (.pt, .pth or .safetensors)"
        raise UsageError(f"{path} is a folder; {mend}")
    if not os.path.isfile(path):
        raise UsageError(f"there is no checkpoint {path}; check the path")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty (0 bytes); copy or download it again")
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    for sign, told in NOT_CHECKPOINTS.items():
        if start.startswith(sign):
            raise UsageError(f"{path} {told}")
    check_archive(path)
    check_opcodes(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a checkpoint's dictionary; give another file")
    check_undamaged(content, path)
    return content


def check_undamaged(content: dict[str, Any], path: Path) -> None:
    """Refuses what is not as it was written: by the digest of our checkpoints, else by the archive's checksums.

    Raises:
        UsageError: it differs.
    """
    told = content.get(DIGEST) if content.get("format") == FORMAT else None
    try:
        is_told = told is not None and told == digest_of(content)
    except TypeError as error:
        raise UsageError(f"{path} is not as acmix wrote it: {error}; {INSTEAD}") from None
    if told is None:
        misspelt = [key for key in content if content.get("format") == FORMAT and is_misspelt(key)]
        broken = misspelt or broken_records(path)
    elif is_told:
        return
    else:
        # by the checksums alone it may be known where
        broken = broken_records(path) or ["its content"]
    if broken:
        raise UsageError(
            f"{path} is damaged: {broken[0]} is not as it was written, so its numbers cannot be trusted; {INSTEAD}"
        )


def is_misspelt(key: Any) -> bool:
    """Whether a key is the digest's name but for one character: in safetensors nothing else tells of a flip there."""
    if not isinstance(key, str) or len(key) != len(DIGEST):
        return False
    return sum(one != other for one, other in zip(key, DIGEST, strict=True)) == 1


def broken_records(path: Path) -> list[str]:
    """The records of a zip archive whose checksums are wrong; none of an archive that was written without checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = [each for each in archive.infolist() if each.file_size]
            broken = [each.filename for each in records if not has_its_checksum(archive, each)]
    except (*UNREADABLE, zipfile.BadZipFile):
        return []
    return broken if len(broken) < len(records) else []


def has_its_checksum(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Whether a record's bytes have the checksum that the archive says."""
    try:
        with archive.open(record) as file:
            while file.read(2**20):
                pass
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error):
        return False
    return True


def check_archive(path: Path) -> None:
    """Refuses an archive that unpacks to far more than the file's bytes; torch stores tensors uncompressed.

    Raises:
        UsageError: it does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (*UNREADABLE, zipfile.BadZipFile):
        # no archive, or a damaged one: whoever reads it tells
        return
    if unpacked > LEAST_UNPACKED + MOST_TIMES * path.stat().st_size:
        raise UsageError(
            f"{path} would unpack to {unpacked / 2**30:,.1f} GiB, far more than its own size: refused; "
            "download it again, from a source that you trust"
        )


def _read_pickle(path: Path) -> Any:
    # The unpickler fills exactly a dict or an OrderedDict, no subclass of one; an OrderedDict also takes the attributes
    # that CfgNode pickles, and does nothing with them.
    stand_in = (OrderedDict, "yacs.config.CfgNode")
    try:
        with torch.serialization.safe_globals([stand_in]), warnings.catch_warnings():
            # a pickle of another protocol is refused below where it holds what cannot be read
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except UNREADABLE as error:
        raise UsageError(f"{path} {_reason(str(error))}") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError

    try:
        metadata, tensors = _safetensors(path)
        ours = json.loads(metadata.get("acmix", "{}"))
    except (SafetensorError, *UNREADABLE) as error:
        raise UsageError(f"{path} {_reason(str(error))}") from None
    if not isinstance(ours, dict):
        raise UsageError(f"{path}: its metadata key 'acmix' is not a JSON object; give another file")
    return {**ours, "model": tensors}


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors of a file."""
    from safetensors import safe_open
    from safetensors.torch import load

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        # safetensors opens names of UTF-8 alone; its header is a length of 8 bytes and JSON
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return header.get("__metadata__") or {}, load(content)
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return file.metadata() or {}, {key: file.get_tensor(key) for key in names}


def _plain(value: Any) -> Any:
    """The same content in plain dictionaries, without the attributes a pickle may have hung on them.

    Raises:
        ValueError: it has values without end, or one that lies too deep.
    """
    check_extent(value, {}, 0)

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(walk(item) for item in value)
        return value

    return walk(value)


def check_extent(value: Any, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many values a value is made of, and how deep they lie; each container is looked at once, where many hold it.

    Args:
        value: as the unpickler built it.
        known: what was found of other containers, which is added to.
        depth: where it lies.

    Raises:
        ValueError: it has too many values, or one that lies too deep.
    """
    if not isinstance(value, (Mapping, list, tuple)):
        return 1, 1
    if id(value) not in known:
        if depth > MOST_DEPTH:
            raise ValueError(f"holds values more than {MOST_DEPTH} deep")
        # of one that holds itself, without end
        known[id(value)] = (1, MOST_DEPTH + 1)
        values = height = 1
        # a key may be a tuple that holds others
        for part in (each for pair in value.items() for each in pair) if isinstance(value, Mapping) else value:
            more, deep = check_extent(part, known, depth + 1)
            values, height = values + more, max(height, deep + 1)
        known[id(value)] = (values, height)
    values, height = known[id(value)]
    if depth + height - 1 > MOST_DEPTH:
        raise ValueError(f"holds values more than {MOST_DEPTH} deep")
    if values > MOST_VALUES:
        raise ValueError(f"holds more than {MOST_VALUES:,} values")
    return values, height


def check_opcodes(path: Path) -> None:
    """Refuses pickles that make bytes out of nothing, which the unpickler for weights allows, or that take very long.

    Raises:
        UsageError: they do.
    """
    names: list[Any] = []
    left = MOST_OPCODES
    try:
        for pickled in pickles_in(path):
            for _, argument, _ in itertools.islice(pickletools.genops(pickled), left + 1):
                left -= 1
                # a name, or module and name as two texts that are put together
                names += [argument] if isinstance(argument, str) else []
            if left < 0:
                break
    except (*UNREADABLE, zipfile.BadZipFile):
        # whoever reads it tells
        return
    if left < 0:
        raise UsageError(f"{path} holds more than {MOST_OPCODES:,} instructions, which no checkpoint has: refused")
    if any(name in BYTEARRAYS or name == "bytearray" for name in names):
        raise UsageError(f"{path} asks for a bytearray, which a checkpoint of weights has no need of: refused")


def pickles_in(path: Path) -> Iterator[bytes | IO[bytes]]:
    """The pickles of a file that `torch.save` wrote: data.pkl of an archive, or the first five of an older file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    yield archive.read(name)
        return
    with open(path, "rb") as file:
        for _ in range(OLDER_PICKLES):
            yield file


def _reason(message: str) -> str:
    """One clause for one of torch's many-line messages."""
    if refused := re.search(r"GLOBAL `?([\w.]+)|unrecognized function (\S+)", message):
        name = refused.group(1) or refused.group(2)
        return (
            f"asks to run {name!r}, which a checkpoint of weights has no need of: refused, nothing was executed; "
            "only tensors and plain values are read: save the weights alone"
        )
    said = message.partition("WeightsUnpickler error:")[2] or message
    first = re.split(r"[.:]\s| Check the documentation", " ".join(said.split()))[0][:100] or "no message"
    return f"is truncated or not a checkpoint ({first}); copy or download it again"
