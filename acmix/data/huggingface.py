"""Data sets of Hugging Face `datasets` that can be read in any order, by timm's reader."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any

import numpy as np
from timm.data.readers.reader_factory import create_reader

from acmix.config import Data
from acmix.errors import UsageError
from acmix.extras import install


class HuggingFace:
    """A data set of Hugging Face `datasets`, read by timm: a name on the hub, or a local folder."""

    notes: Sequence[str] = ()

    def __init__(self, data: Data, name: str):
        self.where = f"{data.format} split {name!r}"
        self.reader = huggingface_reader(data, name)
        labels = self.reader.dataset.with_format("numpy")["label"][:]
        if not np.issubdtype(np.asarray(labels).dtype, np.integer):
            raise UsageError(f"{self.where}: the labels are not integers; expected a column `label` of class numbers")
        self.targets = np.asarray(labels, dtype=np.int64)
        names = self.reader.class_to_idx
        self.classes = sorted(names, key=names.__getitem__) or [str(n) for n in range(int(self.targets.max()) + 1)]
        if self.targets.min() < 0 or self.targets.max() >= len(self.classes):
            raise UsageError(
                f"{self.where}: labels run from {self.targets.min()} to {self.targets.max()};"
                f" expected 0 to {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def name(self, index: int) -> str:
        return self.held(index).get("path") or f"{self.where} row {index}"

    def open(self, index: int) -> str | IO[bytes]:
        # not by timm's reader, which asserts that there is an image, and opens pipes
        held = self.held(index)
        if content := held.get("bytes"):
            return io.BytesIO(content)
        if path := held.get("path"):
            return path
        raise OSError("the row holds no image")

    def held(self, index: int) -> dict[str, Any]:
        """What a row holds of its image: bytes, a path, or nothing."""
        return self.reader.dataset[index]["image"] or {}


def huggingface_reader(data: Data, split: str) -> Any:
    """timm's reader, of a split that is there and has images and labels."""
    need_package(data)
    try:
        reader: Any = create_reader(data.format, root=data.dir or None, split=split)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot open {data.format} split {split!r}: {reason}; check the name and the split") from None
    there = reader.dataset.column_names
    # timm adds an empty column of images where there is none
    is_empty = reader.dataset.data.column("image").null_count == len(reader.dataset)
    if "label" not in there or is_empty:
        named = ", ".join(name for name in there if not (is_empty and name == "image")) or "none"
        raise UsageError(
            f"{data.format} split {split!r} has no labelled images; expected rows with the columns image and label, "
            f"there are: {named}"
        )
    # others would be decoded too
    reader.dataset = reader.dataset.select_columns(["image", "label"])
    return reader


def need_package(data: Data) -> None:
    """Refuses a format whose optional package is missing, of which timm would print a message and go on."""
    package = "webdataset" if data.format.lower().startswith("wds/") else "datasets"
    try:
        import_module(package)
    except ImportError:
        raise UsageError(f"data.format={data.format} needs more packages; run {install('readers')}") from None
