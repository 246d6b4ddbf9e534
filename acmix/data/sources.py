"""Where the images lie: a folder a class, a list file, a tar file, shards, or a Hugging Face dataset.

A source knows the class names, and for every index the file's name, its label and how to open it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from acmix.config import Data
from acmix.data.huggingface import HuggingFace
from acmix.data.lists import list_classes, read_list
from acmix.data.scan import LeftOut, entries, is_folder, is_passed_over, natural_key, walk_images
from acmix.data.shards.source import Place, Shards, find_shards, open_shards
from acmix.data.split import held_out
from acmix.data.tars import Pieces, read_tar
from acmix.errors import UsageError
from acmix.names import places, shown


class Source(Protocol):
    """A split that can be read in any order."""

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        ...

    @property
    def targets(self) -> np.ndarray:
        """The labels of all rows."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user should hear of: lines, of which most splits have none."""
        ...

    def __len__(self) -> int: ...

    def target(self, index: int) -> int:
        """The label of a row."""
        ...

    def name(self, index: int) -> str:
        """The name of a row's file, for messages."""
        ...

    def open(self, index: int) -> str | IO[bytes]:
        """A path, or an open binary file, or OSError."""
        ...


def open_source(data: Data, split: str, *, advise: bool = True) -> Source:
    """Finds a split's images as `data.format` and `data.split` say.

    Args:
        data: gives dir, format, train_split, val_split, split and split_seed.
        split: "train" or "val"; the labels of "val" follow the classes of "train".
        advise: whether an error may advise to set `data.split`, which a run can do and an evaluation cannot.

    Returns:
        The split, readable in any order.

    Raises:
        UsageError: nothing there, something there that cannot be a labelled set of images, or validation images where
            `data.split` would hold out others.
    """
    assert split in ("train", "val")
    if data.format.lower().startswith("hfds/"):
        return HuggingFace(data, split_name(data, split))
    if data.format.lower().startswith(("wds/", "hfids/")):
        raise UsageError(
            f"data.format={data.format} is a stream, which `acmix train` and `acmix evaluate` read; expected auto or "
            "hfds/NAME here"
        )
    if data.format != "auto":
        raise UsageError(f"data.format={data.format!r} is unknown; expected auto, wds/, hfds/NAME or hfids/NAME")
    place = find_shards(data)
    if place is not None:
        return open_part(place, data, split) if data.split else open_shards(place, data, split_name(data, split))
    root = data_folder(data)
    if data.split is not None:
        return open_part(root, data, split)
    name = split_name(data, split)
    if not holds(root, data, split):
        raise missing(root, data, split, advise=advise)
    if has_lists(root, data):
        return open_list(root, name, data.train_split)
    if not (root / name).is_dir() and (root / f"{name}.tar").is_file():
        return Tar(root, name, data.train_split)
    return open_folder(root, name, data.train_split)


def has_lists(root: Path, data: Data) -> bool:
    """Whether list files say what the splits are."""
    return any((root / f"{each}_list.txt").is_file() for each in (data.train_split, data.val_split))


def has_split(data: Data, split: str) -> bool:
    """Whether a data folder, or a URL, has a split."""
    return holds(find_shards(data) or data_folder(data), data, split)


def holds(root: Path | Place, data: Data, split: str) -> bool:
    """Whether data has a split: shards, a list where there are lists, else a folder or a tar file."""
    name = split_name(data, split)
    if isinstance(root, Place):
        return root.split(name) is not None
    if has_lists(root, data):
        return (root / f"{name}_list.txt").is_file()
    return (root / name).is_dir() or (root / f"{name}.tar").is_file()


def missing(root: Path, data: Data, split: str, *, advise: bool) -> UsageError:
    """What to say where a data folder lacks a split."""
    name, train = split_name(data, split), data.train_split
    said = f"{root} has no {name}/ folder; expected {name}/<class>/<image files> in it"
    if has_lists(root, data):
        said = f"{root} has no {name}_list.txt; expected lines of `path label` in it, as in the other list file"
    if advise and split == "val" and holds(root, data, "train"):
        said += f", or data.split=0.2 to hold out a part of {train} for validation"
    elif advise and split == "train" and not holds(root, data, "val") and has_class_folders(root):
        said += "; if its own folders are the classes, add data.split=0.2 to hold out a part for validation"
    return UsageError(said)


def has_class_folders(root: Path) -> bool:
    """Whether some folder in it holds an image."""
    return any(any(walk_images(root / name)) for name in subfolders(root))


def open_part(root: Path | Place, data: Data, split: str) -> Source:
    """The part of the only split there is that `data.split` holds out ("val"), or the rest ("train")."""
    assert data.split is not None
    where = root.name if isinstance(root, Place) else str(root)
    if holds(root, data, "val"):
        raise UsageError(
            f"{where} has validation images ({data.val_split}), and data.split={data.split:g} would hold out others; "
            "leave data.split out, or move them away"
        )
    whole = open_shards(root, data, data.train_split) if isinstance(root, Place) else open_whole(root, data)
    held = held_out(whole.keys(), whole.targets, data.split, data.split_seed, where=where)
    if split == "train":
        return whole.part(~held, whole.notes)
    return whole.part(held, held_out_notes(whole, held, data))


def open_only(data: Data) -> Source:
    """The images of a folder that has neither split: those of its classes.

    Raises:
        UsageError: there are none.
    """
    root = data_folder(data)
    if not has_class_folders(root):
        raise missing(root, data, "train", advise=False)
    return open_whole(root, data)


def open_whole(root: Path, data: Data) -> Files | Tar:
    """The only split there is: the training split, or a folder of classes without train/ around them."""
    train = data.train_split
    if has_lists(root, data):
        return open_list(root, train, train)
    if not (root / train).is_dir() and (root / f"{train}.tar").is_file():
        return Tar(root, train, train)
    inner = train if is_split(root, train) else ""
    return open_folder(root, inner, inner)


def is_split(root: Path, name: str) -> bool:
    """Whether a folder is there and is a split: not one of several classes, with images directly in it."""
    if not (root / name).is_dir():
        return False
    others = [other for other in subfolders(root) if other != name and any(walk_images(root / other))]
    return not others or has_class_folders(root / name)


def held_out_notes(whole: Files | Tar | Shards, held: np.ndarray, data: Data) -> list[str]:
    """What was held out, and of which classes nothing could be."""
    notes = [
        f"{held.sum()} of {len(held)} images are held out by data.split={data.split:g}, "
        f"data.split_seed={data.split_seed}"
    ]
    counts = np.bincount(whole.targets, minlength=len(whole.classes))
    without = (counts > 0) & (np.bincount(whole.targets[held], minlength=len(whole.classes)) == 0)
    if without.any():
        names = [shown(whole.classes[label]) for label in np.flatnonzero(without)]
        some = ", ".join(names[:3] + ["…"] * (len(names) > 3))
        notes.append(f"{len(names)} of {len(counts)} classes have a single image, which is trained on: {some}")
    return notes


def split_name(data: Data, split: str) -> str:
    """What the data set calls "train" or "val"."""
    return data.train_split if split == "train" else data.val_split


def data_folder(data: Data) -> Path:
    """The data folder, there and not empty."""
    if not data.dir:
        raise UsageError("no data folder is given; add --data DIR, a folder with train/<class>/ and val/<class>/")
    root = Path(data.dir).expanduser()
    if not os.path.exists(root):
        raise UsageError(f"no data folder {root}; expected a folder with train/<class>/ and val/<class>/")
    if not root.is_dir():
        raise UsageError(f"{root} is a file; expected a folder with train/ and val/, or train.tar and val.tar")
    if not entries(root):
        raise UsageError(f"data folder {root} is empty; expected train/<class>/ and val/<class>/ in it")
    return root


@dataclass(frozen=True)
class Files:
    """Image files on disk, each with its label."""

    classes: list[str]
    root: Path
    # relative to root; one array of bytes, so that reading processes share it instead of copying a million strings
    paths: np.ndarray
    targets: np.ndarray
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[index])))

    def open(self, index: int) -> str:
        return self.name(index)

    def keys(self) -> list[bytes]:
        """What tells each image from every other, on every machine."""
        return self.paths.tolist()

    def part(self, chosen: np.ndarray, notes: Sequence[str]) -> Files:
        """The chosen rows, in their order, in the same classes."""
        return replace(self, paths=self.paths[chosen], targets=self.targets[chosen], notes=notes)


def open_folder(root: Path, split: str, train_split: str) -> Files:
    """Reads ROOT/SPLIT/<class>/**/<image>; the classes are the folders of the training split that hold an image.

    timm's folder reader is not used: it names a class by its innermost folder and drops unknown classes silently.
    """
    folder = root / split
    left_out = LeftOut()
    images = {name: list(walk_images(folder / name, left_out)) for name in subfolders(folder)}
    left_out.empty = [name for name, paths in images.items() if not paths]
    images = {name: sorted(paths) for name, paths in images.items() if paths}
    if not images:
        loose = sum(os.sep not in path for path in walk_images(folder))
        said = f"holds {loose} images outside any class folder" if loose else "holds no images"
        inside = os.path.join(split, "<class>", "")
        raise UsageError(f"{folder} {said}; expected {inside} folders with image files in them")
    classes = list(images)
    if split != train_split and (root / train_split).is_dir():
        classes = [name for name in subfolders(root / train_split) if any(walk_images(root / train_split / name))]
    number = class_numbers(classes, images, where=str(folder), train=f"{train_split}/")
    paths = [os.fsencode(os.path.join(name, path)) for name in images for path in images[name]]
    targets = [number[name] for name in images for _ in images[name]]
    return Files(classes, folder, np.array(paths), np.array(targets, dtype=np.int64), left_out.notes())


def subfolders(folder: Path) -> list[str]:
    """Visible folders, in timm's order: class10 after class9."""
    names = [entry.name for entry in entries(folder) if is_folder(entry) and not is_passed_over(entry.name)]
    return sorted(names, key=lambda name: (natural_key(name), name))


def class_numbers(classes: list[str], found: Iterable[str], *, where: str, train: str) -> dict[str, int]:
    """Class name to label, after a check that the training split knows every class found."""
    place = places(classes)
    number = {name: label for name in found if (label := place(name)) is not None}
    if unknown := [name for name in found if name not in number]:
        raise UsageError(
            f"{where} has {len(unknown)} classes that {train} lacks, e.g. '{unknown[0]}';"
            " both need the same class names"
        )
    return number


def open_list(root: Path, split: str, train_split: str) -> Files:
    """Reads ROOT/SPLIT_list.txt, a line an image: `path label`; paths start at ROOT, else at ROOT/SPLIT."""
    paths, targets = read_list(root, split)
    if split == train_split or not (root / f"{train_split}_list.txt").is_file():
        train_paths, train_targets = paths, targets
    else:
        train_paths, train_targets = read_list(root, train_split)
    classes = list_classes(train_paths, train_targets)
    for path, target in zip(paths, targets, strict=True):
        if target >= len(classes):
            raise UsageError(
                f"{root / split}_list.txt: label {target} of {path} is out of range; {train_split}_list.txt has"
                f" {len(classes)} classes, 0 to {len(classes) - 1}{'; labels count from 0' if min(targets) else ''}"
            )
    encoded = np.array([os.fsencode(path) for path in paths])
    return Files(classes, root, encoded, np.array(targets, dtype=np.int64))


class Tar:
    """ROOT/SPLIT.tar, read in place; a class is a folder in it, or a tar file in it."""

    def __init__(self, root: Path, split: str, train_split: str):
        self.file = root / f"{split}.tar"
        self.index = read_tar(self.file)
        self.classes, self.notes = self.index.classes, self.index.notes
        if split != train_split and (root / f"{train_split}.tar").is_file():
            self.classes = read_tar(root / f"{train_split}.tar").classes
        found = self.index.classes
        number = class_numbers(self.classes, found, where=str(self.file), train=f"{train_split}.tar")
        self.targets = np.array([number[name] for name in found], dtype=np.int64)[self.index.labels]
        self.pieces = Pieces(self.file)

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, index: int) -> int:
        return int(self.targets[index])

    def name(self, index: int) -> str:
        return f"{self.file}:{os.fsdecode(bytes(self.index.names[index]))}"

    def open(self, index: int) -> IO[bytes]:
        return self.pieces.read(int(self.index.starts[index]), int(self.index.sizes[index]))

    def keys(self) -> list[bytes]:
        """What tells each image from every other: its class and its name, as tars in the tar may use a name again."""
        folders = [os.fsencode(self.classes[label]) for label in self.targets.tolist()]
        return [folder + b"/" + name for folder, name in zip(folders, self.index.names.tolist(), strict=True)]

    def part(self, chosen: np.ndarray, notes: Sequence[str]) -> Tar:
        """The chosen rows, in their order, in the same classes."""
        some = copy(self)
        columns = {key: getattr(self.index, key)[chosen] for key in ("names", "labels", "starts", "sizes")}
        some.index, some.targets, some.notes = replace(self.index, **columns), self.targets[chosen], [*notes]
        some.pieces = Pieces(self.file)
        return some
