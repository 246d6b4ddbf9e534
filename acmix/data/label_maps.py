"""Images with a label for every pixel, in ADE20K's form: which files belong together, and what their values mean.

    images/<split>/a.jpg    annotations/<split>/a.png       also in folders below them, such as images/<split>/kitchen/

A label map is a PNG file of one channel, of 1 to 16 bits, or of a palette, whose indices are the values:

| value | with task.ignore_zero (ADE20K) | without |
|---|---|---|
| 0 | ignored | class 0 |
| 1, 2, … | class 0, 1, … | class 1, 2, … |
| 255 | ignored | ignored |
"""

# H, W height and width of an image; K classes

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from acmix.config import Data
from acmix.data.image import why_unreadable
from acmix.data.pixels import DECODE_ERRORS, formats, raw_mode
from acmix.data.scan import LeftOut, entries, is_folder, is_passed_over, line, natural_key, walk_images
from acmix.data.split import held_out
from acmix.errors import UsageError
from acmix.names import composed

# the target of a pixel that nothing is learned from
IGNORED = 255
FOLDERS = ("images", "annotations")
# grey of few bits, which Pillow stretches to 0 … 255, and by how much
STRETCHED = {"L;2": 85, "L;4": 17}
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
EXPECTED = "expected a PNG file of one channel, whose values are the classes"


@dataclass(frozen=True)
class Pairs:
    """The images of a split and their label maps.

    Args:
        root: the data folder, which the paths are relative to.
        images: in natural order.
        labels: the label map of each.
        notes: lines on what was left out.
    """

    root: Path
    images: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def part(self, chosen: np.ndarray, notes: Sequence[str]) -> Pairs:
        """The pairs for which `chosen` holds."""
        rows = np.flatnonzero(chosen).tolist()
        images, labels = (tuple(names[row] for row in rows) for names in (self.images, self.labels))
        return replace(self, images=images, labels=labels, notes=tuple(notes))


def open_pairs(data: Data, split: str, *, trained: bool = False) -> Pairs:
    """Finds the images of a split and their label maps.

    Args:
        data: gives dir, train_split, val_split, split and split_seed.
        split: "train" or "val".
        trained: whether a trained model is measured: on a validation split where the data has one, rather than on what
            its run held out of other data.

    Returns:
        The pairs, at least one.

    Raises:
        UsageError: a folder is missing or holds no pair, or `data.split` would hold out images of data that has a
            validation split (unless `trained`).
    """
    assert split in ("train", "val")
    root = pairs_folder(data)
    if data.split is None:
        return find_pairs(root, data.train_split if split == "train" else data.val_split)
    if (root / FOLDERS[0] / data.val_split).is_dir():
        if trained:
            own = find_pairs(root, data.val_split)
            note = f"measured on {data.val_split}, which {data.shown_dir} has; the run held out images by data.split"
            return replace(own, notes=(*own.notes, f"{note}={data.split:g}"))
        raise UsageError(
            f"{root} has validation images (images/{data.val_split}), and data.split={data.split:g} would hold out "
            "others; leave data.split out, or move them away"
        )
    whole = find_pairs(root, data.train_split if (root / FOLDERS[0] / data.train_split).is_dir() else "")
    if len(whole) < 2:
        raise UsageError(f"data.split={data.split:g} needs two images to hold one out, and {root} has one; add images")
    paths = [os.fsencode(path) for path in whole.images]
    held = held_out(paths, np.zeros(len(whole), dtype=np.int64), data.split, data.split_seed, where=str(root))
    if split == "train":
        return whole.part(~held, whole.notes)
    note = f"{held.sum()} of {len(held)} images are held out by data.split={data.split:g}"
    return whole.part(held, [f"{note}, data.split_seed={data.split_seed}"])


def pairs_folder(data: Data) -> Path:
    """The data folder, with `images` and `annotations` in it."""
    expected = "a folder with images/<split>/ and annotations/<split>/"
    if data.format != "auto":
        raise UsageError(f"data.format={data.format}: segmentation reads {expected}; leave data.format out")
    if not data.dir:
        raise UsageError(f"no data folder is given; add --data DIR, {expected}")
    root = Path(data.dir).expanduser()
    if not root.is_dir():
        raise UsageError(f"{root} is {'no folder' if root.exists() else 'not there'}; expected {expected}")
    if missing := [name for name in FOLDERS if not (root / name).is_dir()]:
        if all((root.parent / name).is_dir() for name in FOLDERS):
            raise UsageError(f"{root} has no folder {missing[0]}/; {root.parent} has: give that folder")
        raise UsageError(f"{root} has no folder {missing[0]}/; expected {expected}")
    return root


def find_pairs(root: Path, split: str) -> Pairs:
    """Lists a split's images and label maps of the same name.

    Args:
        root: holds `images` and `annotations`.
        split: the name of a folder in both; "" where both hold the files themselves.

    Raises:
        UsageError: a folder is missing, or no image has a label map.
    """
    left_out, notes = LeftOut(), []
    images, labels = (by_name(root, os.path.join(kind, split), left_out, notes) for kind in FOLDERS)
    both = in_order(images.keys() & labels.keys())
    where = f"images/{split}", f"annotations/{split}"
    if not both:
        raise UsageError(
            f"{root} has {len(images)} images in {where[0]} and {len(labels)} label maps in {where[1]}, but no two of "
            f"one name{example(images, labels)}; expected {where[0]}/a.jpg and {where[1]}/a.png"
        )
    for one, other, kind, kinds in (
        (images, labels, "image has no label map", "images have no label map"),
        (labels, images, "label map has no image", "label maps have no image"),
    ):
        if alone := [one[name] for name in in_order(one.keys() - other.keys())]:
            notes.append(line(alone, kind, kinds))
    return Pairs(
        root,
        images=tuple(images[name] for name in both),
        labels=tuple(labels[name] for name in both),
        notes=(*left_out.notes(), *notes),
    )


def by_name(root: Path, folder: str, left_out: LeftOut, notes: list[str]) -> dict[str, str]:
    """The image files below a folder, relative to root, by their path in it without the extension."""
    place = root / folder
    if not place.is_dir():
        there = sorted(
            entry.name for entry in entries(place.parent) if is_folder(entry) and not is_passed_over(entry.name)
        )
        key = "data.train_split and data.val_split (with acmix evaluate: --split)"
        hint = f"it has {', '.join(there[:5])}: set {key} to the names of its folders" if there else f"set {key}"
        raise UsageError(f"{place.parent} has no folder {place.name}/; {hint}")
    found: dict[str, str] = {}
    twice = []
    # of several files of one name the PNG comes first, then the first by name
    for path in sorted(walk_images(place, left_out), key=lambda path: (not path.lower().endswith(".png"), path)):
        # some systems write é as two characters, which look the same
        name = composed(os.path.splitext(path)[0])
        if name in found:
            twice.append(os.path.join(folder, path))
        found.setdefault(name, os.path.join(folder, path))
    if twice:
        notes.append(line(twice, "file has the name of another image", "files have the names of other images"))
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Names in natural order: one order, also of 1 and 01, in every process."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def example(images: dict[str, str], labels: dict[str, str]) -> str:
    """The first file of each kind, for a message."""
    first = [min(each.values()) for each in (images, labels) if each]
    return f" ({', '.join(first)})" if first else ""


def read_pair(
    image: str, labels: str, *, read: Callable[..., Image.Image], classes: int, ignore_zero: bool
) -> tuple[Image.Image, np.ndarray]:
    """Reads an image and its label map.

    Args:
        image: the path of the image.
        labels: the path of the label map.
        read: reads an image as RGB, as `acmix.data.read_image` does with its `size`.
        classes: K.
        ignore_zero: whether the value 0 is ignored and 1 is the first class.

    Returns:
        The picture, (W, H), and its classes as uint8 (H, W): 0 … K - 1, or 255 for what is ignored. The picture is
        turned as its EXIF says, unless the label map fits it as it is stored.

    Raises:
        UsageError: either is unreadable, or they do not fit each other.
    """
    with opened(labels) as label_map:
        check_kind(labels, label_map)
        picture = read(image, size=label_map.size)
        # before a pixel is decoded: a small file may hold a huge map
        if label_map.size != picture.size:
            (width, height), (wide, high) = label_map.size, picture.size
            raise UsageError(
                f"the label map {labels} is {width}x{height} and its image {wide}x{high}; expected one size, so write "
                "it anew or remove both"
            )
        values = values_of(label_map)
    return picture, as_targets(values, labels, classes=classes, ignore_zero=ignore_zero)


def read_label_map(path: str, *, classes: int, ignore_zero: bool) -> np.ndarray:
    """The classes of a label map, uint8 (H, W), as in `read_pair`."""
    with opened(path) as labels:
        check_kind(path, labels)
        values = values_of(labels)
    return as_targets(values, path, classes=classes, ignore_zero=ignore_zero)


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """An image file whose header is read; what is wrong with it is said in one line, also of what the caller reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not stat.S_ISREG(os.stat(path).st_mode):
                # to open a pipe may wait for ever
                raise OSError("a pipe, a socket or a device, an image file was expected")
            with Image.open(path, formats=formats()) as image:
                yield image
    except UsageError:
        raise
    except DECODE_ERRORS as error:
        raise UsageError(f"cannot read label map {path}: {why_unreadable(path, error)}; replace or remove it") from None


def check_kind(path: str, labels: Image.Image) -> None:
    """Refuses a file whose values cannot be classes."""
    if labels.format in LOSSY:
        raise UsageError(f"the label map {path} is a {labels.format} file, which alters values; {EXPECTED}")
    if labels.format != "PNG":
        raise UsageError(f"the label map {path} is a {labels.format} file; {EXPECTED}")
    if labels.mode in ("RGB", "RGBA"):
        raise UsageError(
            f"the label map {path} holds colours; {EXPECTED} (for ADE20K, those of ADEChallengeData2016, not of the "
            "full data set)"
        )
    if labels.mode not in ("1", "L", "P", "I") and not labels.mode.startswith("I;16"):
        raise UsageError(f"the label map {path} has {len(labels.getbands())} channels (mode {labels.mode}); {EXPECTED}")


def values_of(labels: Image.Image) -> np.ndarray:
    """The values as the file has them, (H, W): a palette's indices, 0 and 1 of one bit, up to 65535 of 16 bits."""
    stored = raw_mode(labels)
    labels.load()
    values = np.asarray(labels)  # (H, W)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values // STRETCHED.get(stored, 1)


def as_targets(values: np.ndarray, path: str, *, classes: int, ignore_zero: bool) -> np.ndarray:
    """Values (H, W) of a file as classes, uint8 (H, W), with 255 for what is ignored."""
    first = int(ignore_zero)
    beyond = (values >= first + classes) & (values != IGNORED)
    if beyond.any():
        value = int(values[beyond].max())
        hint = ""
        if value == classes and not ignore_zero:
            hint = "; if 0 is no class, as in ADE20K, set task.ignore_zero=true"
        raise UsageError(
            f"the label map {path} has the value {value}; expected {first} to {first + classes - 1} for the "
            f"{classes} classes, {'0 or ' if ignore_zero else ''}{IGNORED} for what is ignored{hint}"
        )
    targets = values.astype(np.uint8)
    if ignore_zero:
        # 0 becomes 255
        targets = np.where(targets == IGNORED, targets, targets - np.uint8(1))
    return targets
