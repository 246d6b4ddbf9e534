"""What lies in a folder of shards: `_info.json`, and an index of each split.

`_info.json` is for people and for timm (`splits`: name, num_samples, filenames, shard_lengths); each split also has the
bytes and the SHA-256 of its shards and of its index. `SPLIT-index.safetensors` holds arrays with an entry an image:
`names` (its path where it came from), `labels`, `shards`, `starts` and `sizes` in bytes; and `classes`, the names of
the classes as bytes.

Both may come from anywhere. Sizes are bounded before anything is read, types and ranges are checked before anything is
used, and a shard is a plain name in the same folder.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from acmix.errors import UsageError

FORMAT = "acmix-shards-1"
INFO = "_info.json"
# most bytes of `_info.json`, of an image and of an index, and most images of a split
LONGEST_INFO, LARGEST_IMAGE, LARGEST_INDEX, MOST_IMAGES = 16 * 2**20, 2**30, 8 * 2**30, 2**31 - 1
# shards that fit into `_info.json`
MOST_SHARDS = 80_000
# images that `_info.json` names of those left out
SOME_LEFT_OUT = 100

Count = Annotated[int, Field(ge=0, le=2**53)]
# a name in the same folder, of letters that every system takes
PlainName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Checked(BaseModel):
    """A part of `_info.json`; what we do not know in it is passed over, for later versions."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class IndexFile(Checked):
    """The index of a split."""

    file: PlainName
    bytes: Annotated[int, Field(ge=1, le=LARGEST_INDEX)]
    sha256: Sha256


class LeftOutImage(Checked):
    """An image that could not be read when the shards were written."""

    name: str
    reason: str


class SplitInfo(Checked):
    """A split; the first four are what timm's reader takes."""

    name: str
    num_samples: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    filenames: list[PlainName]
    shard_lengths: list[Count]
    shard_bytes: list[Count]
    shard_sha256: list[Sha256]
    index: IndexFile
    seed: int
    # what tells which images, in which order and in which shards; the same plan gives the same bytes
    plan: str
    left_out_count: Count = 0
    left_out: list[LeftOutImage] = []


class Info(Checked):
    """`_info.json`."""

    format: Literal["acmix-shards-1"]
    # as they can be shown; exactly in the indexes
    classes: list[str]
    # whether labels are places in the sorted names of the classes, or numbers that the data gave
    labels: Literal["by name", "by number"]
    splits: dict[str, SplitInfo]


@dataclass(frozen=True)
class Index:
    """The images of a split: an entry an image of all but `classes`."""

    classes: list[str]
    names: np.ndarray
    labels: np.ndarray
    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


def read_info(root: Path) -> Info | None:
    """What a folder says about its shards; None where it holds none of ours.

    Raises:
        UsageError: it says so, and is damaged.
    """
    file = root / INFO
    try:
        # not of a pipe or a device, which may never end
        if not os.path.isfile(file):
            return None
        with open(file, "rb") as opened:
            content = opened.read(LONGEST_INFO + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from None
    return parse_info(content, str(file))


def parse_info(content: bytes, where: str) -> Info | None:
    """The same of its bytes; None where another program wrote them."""
    # before it is parsed, as anything may be in it
    if f'"{FORMAT}"'.encode() not in content[:1000]:
        return None
    if len(content) > LONGEST_INFO:
        raise UsageError(f"{where} has more than {LONGEST_INFO} bytes; write larger shards")
    try:
        info = Info.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise UsageError(f"{where} is damaged: {place[:200]}: {problem['msg']}; write or copy it again") from None
    for name, split in info.splits.items():
        columns = (split.shard_lengths, split.shard_bytes, split.shard_sha256)
        if any(len(column) != len(split.filenames) for column in columns):
            raise UsageError(
                f"{where} is damaged: the lists of split {name!r} differ in length; write or copy it again"
            )
        if len(set(split.filenames)) < len(split.filenames):
            raise UsageError(f"{where} is damaged: split {name!r} names a shard twice; write or copy it again")
        if sum(split.shard_lengths) != split.num_samples:
            raise UsageError(
                f"{where} is damaged: the shards of split {name!r} hold {sum(split.shard_lengths)} images, and "
                f"num_samples is {split.num_samples}; write or copy it again"
            )
    return info


def read_index(file: Path, info: Info, split: SplitInfo) -> Index:
    """Reads the index of a split.

    Raises:
        UsageError: it is missing, damaged or another one than `_info.json` means.
    """
    try:
        if not os.path.isfile(file):
            raise UsageError(f"there is no {file}, which {INFO} names; copy it too")
        if os.path.getsize(file) != split.index.bytes:
            raise UsageError(
                f"{file} has {os.path.getsize(file)} bytes, and {INFO} says {split.index.bytes}; copy both again"
            )
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}; check its permissions") from None
    if hashlib.sha256(content).hexdigest() != split.index.sha256:
        raise UsageError(f"{file} is damaged: its SHA-256 is not the one in {INFO}; copy both again")
    return checked(content, info, split, str(file))


def checked(content: bytes, info: Info, split: SplitInfo, where: str) -> Index:
    """An index from its bytes, of which every number is in its range."""
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} is no index of shards: {error}; write or copy it again") from None
    wanted = {"names": "u1", "classes": "u1", "labels": "i4", "shards": "i4", "starts": "i8", "sizes": "i8"}
    for name, kind in wanted.items():
        array = arrays.get(name)
        length = len(info.classes) if name == "classes" else split.num_samples
        sides = 2 if kind == "u1" else 1
        if array is None or array.dtype != np.dtype(kind) or array.ndim != sides or len(array) != length:
            raise UsageError(f"{where} is damaged: {name} is not {length} entries of its kind; write or copy it again")
    labels, shards, starts, sizes = (arrays[name] for name in ("labels", "shards", "starts", "sizes"))
    if not within(labels, len(info.classes)):
        raise UsageError(f"{where} is damaged: it has labels outside of the {len(info.classes)} classes")
    if not within(shards, len(split.filenames)):
        raise UsageError(f"{where} is damaged: it names shards outside of the {len(split.filenames)} there are")
    ends = np.array(split.shard_bytes, dtype=np.int64)[shards]
    # compared in an order in which nothing overflows
    if not (within(sizes, LARGEST_IMAGE + 1) and (starts >= 0).all() and (starts <= ends - sizes).all()):
        raise UsageError(f"{where} is damaged: it has images outside of their shards; write or copy it again")
    if np.bincount(shards, minlength=len(split.filenames)).tolist() != split.shard_lengths:
        raise UsageError(f"{where} is damaged: its shards hold other numbers of images than {INFO} says")
    classes = [os.fsdecode(bytes(name)) for name in as_names(arrays["classes"])]
    if len(set(classes)) < len(classes):
        raise UsageError(f"{where} is damaged: it names a class twice; write or copy it again")
    return Index(classes, as_names(arrays["names"]), labels.astype(np.int64), shards, starts, sizes)


def within(values: np.ndarray, end: int) -> bool:
    """Whether all numbers are from 0 to below an end."""
    return bool(((values >= 0) & (values < end)).all())


def as_names(rows: np.ndarray) -> np.ndarray:
    """Rows of bytes, filled up with zeros, as one array of byte strings."""
    if not rows.shape[1]:
        return np.zeros(len(rows), dtype="S1")
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}")[:, 0]


def as_rows(names: np.ndarray) -> np.ndarray:
    """The reverse of `as_names`."""
    names = np.ascontiguousarray(names, dtype=np.bytes_)
    return names.view(np.uint8).reshape(len(names), names.dtype.itemsize)


def index_bytes(index: Index) -> bytes:
    """An index as a file."""
    classes = np.array([os.fsencode(name) for name in index.classes], dtype=np.bytes_)
    return save(
        {
            "names": as_rows(index.names),
            "classes": as_rows(classes),
            "labels": index.labels.astype(np.int32),
            "shards": index.shards.astype(np.int32),
            "starts": index.starts.astype(np.int64),
            "sizes": index.sizes.astype(np.int64),
        }
    )
