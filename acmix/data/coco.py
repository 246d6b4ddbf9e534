"""Reads the annotations of a split in COCO's format, checks each, and packs them by image.

    {"images":      [{"id", "file_name", "width", "height"}, …],
     "categories":  [{"id", "name"}, …],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height],
                      "segmentation": polygons or run lengths, "area", "iscrowd"}, …]}

`area` is that of the box where it is missing, `iscrowd` is 0. A file that contradicts itself is refused; a damaged
object is left out, counted and named in `Coco.notes`. Objects that share an id are kept and counted. The file is parsed
once; arrays are kept, which reading processes share.
"""

# n objects, in the order of their images; h, w height and width of an image

from __future__ import annotations

import gc
import json
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from acmix.data.masks import BrokenOutline
from acmix.data.segmentations import Segmentations
from acmix.errors import UsageError

# by how many pixels a box may reach beyond its image for being rounded
ROUNDED = 0.1
# what a damaged object is counted as: of one, of several
NO_BOX = ("box is not four finite numbers and is left out", "boxes are not four finite numbers and are left out")
NO_AREA = ("box has no area and is left out", "boxes have no area and are left out")
OUTSIDE = ("box lies outside its image and is left out", "boxes lie outside their images and are left out")
BEYOND = ("box reaches beyond its image, training clips it", "boxes reach beyond their images, training clips them")
NO_IMAGE = ("object is left out, its image is not listed", "objects are left out, their images are not listed")
NO_CATEGORY = (
    "object is left out, its category is not listed",
    "objects are left out, their categories are not listed",
)
POLYGON = (
    "polygon has fewer than three points or is damaged, and is left out",
    "polygons have fewer than three points or are damaged, and are left out",
)
OUTLINE = ("object is left out for want of an outline", "objects are left out for want of an outline")
REPEATED = ("object is listed again and counts once", "objects are listed again and count once")
SAME_ID = (
    "object has the id of another and is kept beside it",
    "objects have the ids of others and are kept beside them",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coco:
    """The images and objects of a split.

    Args:
        file: of the annotations.
        names: of the images' files, relative to the folder of the images.
        image_ids: int64 (images,).
        sizes: height and width that the annotations speak of, int64 (images, 2).
        classes: names of the categories, in the order of their ids.
        category_ids: in the same order; they may have gaps.
        starts: where each image's objects begin, and the last ones end, int64 (images + 1,).
        boxes: x, y, width, height as in the file, float64 (n, 4).
        labels: places in `classes`, int64 (n,).
        areas: float64 (n,).
        crowd: bool (n,).
        outlines: of each object its row of `segmentations`, int64 (n,).
        segmentations: None where they were not asked for.
        notes: lines on what was left out.
    """

    file: Path
    names: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    classes: list[str]
    category_ids: list[int]
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    outlines: np.ndarray
    segmentations: Segmentations | None
    notes: list[str]

    def objects(self, index: int) -> np.ndarray:
        """The rows of an image's objects, (objects,)."""
        return np.arange(self.starts[index], self.starts[index + 1])

    def part(self, chosen: np.ndarray, notes: Sequence[str]) -> Coco:
        """Some of the images, chosen is bool (images,), in their order, with their objects and the same classes."""
        counts = np.diff(self.starts)
        rows = np.repeat(chosen, counts)  # (n,)
        return replace(
            self,
            names=[name for name, is_chosen in zip(self.names, chosen.tolist(), strict=True) if is_chosen],
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            starts=np.concatenate([[0], np.cumsum(counts[chosen])]),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            crowd=self.crowd[rows],
            outlines=self.outlines[rows],
            notes=[*notes],
        )


class Account:
    """What was left out: how many of each kind, and which was the first."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, kind: tuple[str, str], where: str, count: int = 1) -> None:
        """Counts."""
        before, first = self.kinds.get(kind, (0, where))
        self.kinds[kind] = before + count, first

    def lines(self) -> list[str]:
        """A line for each kind: `3 boxes have no area and are left out (first: image 12, annotation 55)`."""
        return [f"{count} {kind[count > 1]} (first: {first})" for kind, (count, first) in self.kinds.items()]


def read_coco(file: Path, *, with_outlines: bool) -> Coco:
    """Reads a file of annotations.

    Args:
        file: JSON in COCO's format.
        with_outlines: whether objects need an outline; else `segmentation` is not looked at.

    Raises:
        UsageError: no JSON, not COCO's format, or a file that contradicts itself.
    """
    content = load(file)
    classes, category_ids = read_categories(file, content["categories"])
    names, image_ids, sizes = read_images(file, content["images"])
    objects = Objects(file, image_ids, sizes, category_ids, with_outlines=with_outlines)
    for number, annotation in enumerate(content["annotations"]):
        objects.add(number, annotation)
    images = np.array(objects.images, dtype=np.int64)
    order = np.argsort(images, kind="stable")
    return Coco(
        file=file,
        names=names,
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        classes=classes,
        category_ids=category_ids,
        starts=np.searchsorted(images[order], np.arange(len(names) + 1)),
        boxes=np.array(objects.boxes).reshape(-1, 4)[order],
        labels=np.array(objects.labels, dtype=np.int64)[order],
        areas=np.array(objects.areas)[order],
        crowd=np.array(objects.crowd, dtype=bool)[order],
        outlines=order,
        segmentations=objects.segmentations,
        notes=objects.account.lines(),
    )


@contextmanager
def without_collection() -> Iterator[None]:
    """Spares millions of new objects a search for circles among them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


LISTS = ("images", "annotations", "categories")


def load(file: Path, lists: Sequence[str] = LISTS) -> dict[str, list[Any]]:
    """The content of a file, which has COCO's three lists, or those that are asked for."""
    wanted = f"{', '.join(lists[:-1])} and {lists[-1]}"
    try:
        with open(file, encoding="utf-8-sig") as text, without_collection():
            content = json.load(text)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; check the file") from None
    except RecursionError:
        raise UsageError(f"{file} is not in COCO's format: its lists are nested too deeply; check the file") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} is damaged or no JSON: {reason}; get the file again") from None
    if not isinstance(content, dict):
        raise UsageError(
            f"{file} is not in COCO's format: expected an object with the lists {wanted}, found {kind_of(content)}"
        )
    for key in lists:
        if not isinstance(content.get(key), list):
            found = f"{key} is {kind_of(content[key])}" if key in content else f"there is no {key}"
            raise UsageError(f"{file} is not in COCO's format: expected the lists {wanted}, but {found}")
    return content


def kind_of(value: Any) -> str:
    """What a value of a JSON file is, in a few words."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, also where it is written as 7.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if abs(value) < 2**63 else None


def read_categories(file: Path, rows: list[Any]) -> tuple[list[str], list[int]]:
    """Names and ids of the categories, by id."""
    found: dict[int, str] = {}
    for number, row in enumerate(rows):
        identity, name = (whole(row.get("id")), row.get("name")) if isinstance(row, dict) else (None, None)
        if identity is None or not isinstance(name, str) or not name:
            raise UsageError(f"{file}: category number {number} has no id and name; expected a whole number and a text")
        if identity in found:
            raise UsageError(f"{file}: two categories have the id {identity}; give each its own")
        if name in found.values():
            raise UsageError(f"{file}: two categories are named {name!r}; give each its own name, or make them one")
        found[identity] = name
    if not found:
        raise UsageError(f"{file} lists no categories; expected one for each class")
    ids = sorted(found)
    return [found[each] for each in ids], ids


def read_images(file: Path, rows: list[Any]) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """File names, ids and sizes (h, w) of the images, in the order of the file."""
    names: list[str] = []
    ids: dict[int, None] = {}
    sizes: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        identity = whole(row.get("id")) if isinstance(row, dict) else None
        if identity is None:
            raise UsageError(f"{file}: image number {number} has no id; expected a whole number")
        if identity in ids:
            raise UsageError(f"{file}: two images have the id {identity}; give each its own")
        name: Any = row.get("file_name")
        if not is_below(name):
            raise UsageError(
                f"{file}: the file_name of image {identity} is {kind_of(name)}; expected a path within the folder of"
                " images"
            )
        height, width = (whole(row.get(key)) for key in ("height", "width"))
        if not (height and width and height > 0 and width > 0):
            raise UsageError(
                f"{file}: image {identity} is {kind_of(row.get('width'))} wide and {kind_of(row.get('height'))} high;"
                " expected width and height in pixels"
            )
        ids[identity] = None
        names.append(name)
        sizes.append((height, width))
    if not names:
        raise UsageError(f"{file} lists no images")
    return names, list(ids), sizes


def is_below(name: Any) -> bool:
    """Whether a name is that of a file in a folder or below it, wherever the folder is."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    # of Windows, too
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and ":" not in parts[0] and ".." not in parts


def is_same_object(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two annotations of one id are one object: in one image, of one category, in one box."""
    return all(one.get(key) == other.get(key) for key in ("image_id", "category_id", "bbox"))


class Objects:
    """The objects of a file, taken in one by one."""

    def __init__(
        self,
        file: Path,
        image_ids: list[int],
        sizes: list[tuple[int, int]],
        category_ids: list[int],
        *,
        with_outlines: bool,
    ):
        self.file = file
        self.image_places = {identity: place for place, identity in enumerate(image_ids)}
        self.sizes = sizes
        self.label_of = {identity: label for label, identity in enumerate(category_ids)}
        self.account = Account()
        # by id, the first of each
        self.taken: dict[int, dict[str, Any]] = {}
        self.images, self.labels, self.crowd = array("q"), array("q"), array("b")
        self.boxes, self.areas = array("d"), array("d")
        self.segmentations = Segmentations() if with_outlines else None

    def add(self, number: int, annotation: Any) -> None:
        """Takes in one annotation, or counts why not."""
        identity = whole(annotation.get("id")) if isinstance(annotation, dict) else None
        if identity is None:
            raise UsageError(f"{self.file}: annotation number {number} has no id; expected a whole number")
        image_id = whole(annotation.get("image_id"))
        place = None if image_id is None else self.image_places.get(image_id)
        if place is None:
            self.account.add(NO_IMAGE, f"annotation {identity}, image {kind_of(annotation.get('image_id'))}")
            return
        where = f"image {image_id}, annotation {identity}"
        category = whole(annotation.get("category_id"))
        label = None if category is None else self.label_of.get(category)
        if label is None:
            self.account.add(NO_CATEGORY, f"{where}, category {kind_of(annotation.get('category_id'))}")
            return
        height, width = self.sizes[place]
        box = self.box(annotation.get("bbox"), height, width, where)
        if box is None:
            return
        first = self.taken.get(identity)
        if first is not None and is_same_object(first, annotation):
            self.account.add(REPEATED, where)
            return
        if not self.takes_outline(annotation.get("segmentation"), height, width, where):
            return
        if first is not None:
            self.account.add(SAME_ID, where)
        self.taken.setdefault(identity, annotation)
        area: Any = annotation.get("area")
        has_area = type(area) in (int, float) and 0 <= area < 2**63
        self.images.append(place)
        self.labels.append(label)
        self.boxes.extend(box)
        self.areas.append(float(area) if has_area else box[2] * box[3])
        self.crowd.append(self.is_crowd(annotation.get("iscrowd"), where))

    def box(self, given: Any, height: int, width: int, where: str) -> array[float] | None:
        """A box that has pixels of its image; None, and counted, where it has none."""
        try:
            box = array("d", given if isinstance(given, list) else [])
        except (TypeError, OverflowError):
            box = array("d")
        if len(box) != 4 or not math.isfinite(sum(box)):
            self.account.add(NO_BOX, where)
            return None
        x, y, w, h = box
        if w <= 0 or h <= 0:
            self.account.add(NO_AREA, where)
            return None
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.account.add(OUTSIDE, where)
            return None
        if min(x, y) < -ROUNDED or x + w > width + ROUNDED or y + h > height + ROUNDED:
            self.account.add(BEYOND, where)
        return box

    def takes_outline(self, given: Any, height: int, width: int, where: str) -> bool:
        """Takes in an outline where they are needed; False, and counted, where it cannot be read."""
        if self.segmentations is None:
            return True
        try:
            left_out = self.segmentations.add(given, height, width)
        except BrokenOutline as error:
            self.account.add(OUTLINE, f"{where}: {error}")
            return False
        if left_out:
            self.account.add(POLYGON, where, left_out)
        return True

    def is_crowd(self, given: Any, where: str) -> bool:
        """Whether an object stands for many: `iscrowd` is 0 or 1."""
        if given is None or (isinstance(given, int | float) and given in (0, 1)):
            return bool(given)
        raise UsageError(f"{self.file}: iscrowd is {kind_of(given)} ({where}); expected 0 or 1")
