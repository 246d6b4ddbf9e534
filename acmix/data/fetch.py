"""Small public data sets as image folders: scikit-learn's handwritten digits and Fashion-MNIST's clothes.

Shapes: n pictures, s their side in pixels
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from acmix.data.digits import DIGITS, choose_held_out, enlarge, load_digits
from acmix.data.sprites import CLOTHES, FASHION_MNIST, read_idx
from acmix.errors import UsageError
from acmix.near import did_you_mean

NAMES = ("digits", "fashion-mnist")
# what tells a complete folder, and of which pictures it was made
RECORD = "fetched.json"
FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Pictures:
    """One split of a data set.

    Args:
        images: (n,) pictures as PIL takes them, made when they are asked for.
        labels: (n,), 0 for the first class.
        places: (n,), each picture's place in the published set, which names its file.
    """

    images: Callable[[int], Image.Image]
    labels: np.ndarray
    places: np.ndarray


def fetch(
    name: str, root: str | os.PathLike[str], *, train: int | None = None, val: int | None = None
) -> Iterator[str]:
    """Writes a data set as PNG files, train/<class>/NNNNN.png and val/<class>/NNNNN.png, and says how far it is.

    NNNNN is the picture's place in the published set. A complete folder of the same pictures is kept as it is.

    Args:
        name: "digits" (1,797 of 32×32 pixels, a fifth of each class held out) or "fashion-mnist" (70,000 of 28×28;
            its own 10,000 test pictures are val).
        root: the folder to make.
        train, val: pictures of each split; a fixed part, as many of each class as can be, and a smaller part lies in
            a larger one. All by default.

    Raises:
        UsageError: no such data set, it cannot be had, more pictures than there are, or the folder holds something else
            or cannot be written.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES, otherwise=f"expected one of {', '.join(NAMES)}")
        raise UsageError(f"no data set {name!r}; {hint}")
    # a link to a folder is the folder
    root = Path(os.path.realpath(root))
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / RECORD).is_file())):
        raise UsageError(f"{root} holds other files than a fetched data set; remove it or name another folder")
    classes, splits = open_digits() if name == "digits" else open_fashion_mnist()
    wanted = {"train": train, "val": val}
    chosen = {
        split: part(pictures.labels, wanted[split], len(classes), f"{name} has", split)
        for split, pictures in splits.items()
    }
    record = {"name": name, **{split: len(indices) for split, indices in chosen.items()}}
    if (root / RECORD).is_file():
        if is_complete(root, record):
            yield f"{told(record)} are in {root}"
            return
        raise UsageError(f"{root} holds another part of a fetched data set; remove it or name another folder")
    # written beside its place and then renamed: the record, which makes it complete, comes last
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        for split, pictures in splits.items():
            yield from write_split(partial / split, pictures, chosen[split], classes)
        (partial / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
        if root.is_dir():
            # somebody may be in it
            for each in ("train", "val", RECORD):
                os.replace(partial / each, root / each)
        else:
            os.replace(partial, root)
    except OSError as error:
        # another process may have been quicker
        if not is_complete(root, record):
            raise UsageError(f"cannot write {name} to {root}: {error.strerror}; name another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    yield f"{told(record)} in {root}"


def write_split(folder: Path, pictures: Pictures, indices: np.ndarray, classes: tuple[str, ...]) -> Iterator[str]:
    """Writes pictures below a folder for each class."""
    for label in np.unique(pictures.labels[indices]):
        (folder / classes[label]).mkdir(parents=True, exist_ok=True)
    began = said = time.monotonic()
    for done, index in enumerate(indices):
        file = folder / classes[pictures.labels[index]] / f"{pictures.places[index]:05d}.png"
        pictures.images(int(index)).save(file)
        now = time.monotonic()
        if now - said > SECONDS_BETWEEN_LINES:
            left = (now - began) / (done + 1) * (len(indices) - done - 1)
            yield f"{folder.name}: {done + 1:,} of {len(indices):,}, about {left:.0f} s left"
            said = now


def part(labels: np.ndarray, count: int | None, classes: int, whose: str, split: str) -> np.ndarray:
    """Indices of so many pictures, as many of each class as can be; in the order of the set.

    Raises:
        UsageError: there are fewer, of all or of a class.
    """
    if count is None:
        return np.arange(len(labels))
    # the legacy generator's permutations are frozen for good
    rng = np.random.RandomState(0)
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    most = min(map(len, orders)) * classes
    if not classes <= count <= most:
        raise UsageError(f"{whose} no balanced part of {count} for {split}; expected {classes} to {most}, or all")
    shares = [count // classes + (label < count % classes) for label in range(classes)]
    return np.sort(np.concatenate([order[:share] for order, share in zip(orders, shares, strict=True)]))


def is_complete(root: Path, record: dict[str, object]) -> bool:
    """Whether a folder holds what a record says."""
    try:
        if json.loads((root / RECORD).read_text(encoding="utf-8")) != record:
            return False
    except (OSError, ValueError, RecursionError):
        return False
    return all(len(list((root / split).glob("*/*.png"))) == record[split] for split in ("train", "val"))


def told(record: dict[str, object]) -> str:
    """What a folder holds, in words."""
    return f"{record['name']}: {record['train']:,} training and {record['val']:,} validation pictures"


def open_digits() -> tuple[tuple[str, ...], dict[str, Pictures]]:
    """Class names and splits, as `acmix.data.digits` writes them."""
    pictures, labels = load_digits()
    held_out = np.isin(np.arange(DIGITS), list(choose_held_out(labels)))

    def split(places: np.ndarray) -> Pictures:
        return Pictures(lambda i: enlarge(pictures[places[i]]), labels[places], places)

    splits = {"train": split(np.flatnonzero(~held_out)), "val": split(np.flatnonzero(held_out))}
    return tuple(map(str, range(10))), splits


def open_fashion_mnist() -> tuple[tuple[str, ...], dict[str, Pictures]]:
    """Class names and splits: from Debian's files where they lie, else by torchvision, which downloads them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = FASHION_MNIST if all((FASHION_MNIST / each).is_file() for each in FILES) else download(Path(scratch))
        splits = {}
        for split, name, count in (("train", "train", 60_000), ("val", "t10k", 10_000)):
            grey = read_idx(folder / f"{name}-images-idx3-ubyte.gz", (count, 28, 28))
            labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz", (count,)).astype(int)
            splits[split] = Pictures(lambda i, grey=grey: Image.fromarray(grey[i]), labels, np.arange(count))
    return CLOTHES, splits


def download(folder: Path) -> Path:
    """Fashion-MNIST's four files by torchvision, which compares their checksums.

    Raises:
        UsageError: they cannot be had.
    """
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"cannot download Fashion-MNIST: {why}; install Debian's package dataset-fashion-mnist, or try again "
            "with a network"
        ) from None
    return folder / "FashionMNIST" / "raw"
