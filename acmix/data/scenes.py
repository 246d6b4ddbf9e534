"""Writes scenes of real small pictures as data to train on: in COCO's format and in ADE20K's.

The pictures are handwritten digits and, where Debian's package dataset-fashion-mnist is installed, clothes; the
grounds are drawn. Training images hold training pictures only, validation images the others.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acmix.data.outlines import run_lengths, segmentation_of
from acmix.data.scene import Kind, Scene, Thing, draw_scene
from acmix.data.sprites import FASHION_MNIST, Source, open_sources
from acmix.errors import UsageError

# what a complete set was made with
SETTINGS = "scenes.json"
DETECTION = Kind(objects=(2, 6), sides=(3 / 16, 7 / 16), least_visible=0.35, empty=0.03, crowded=0.05)
# each pixel is to be told from what is around it: less in a scene, and less of it covered
SEGMENTATION = Kind(objects=(2, 4), sides=(0.28, 0.42), least_visible=0.8)
# of a pixel at an edge, whose colour is part ground and part object: label 0, which is ignored
EDGE = (0.2, 0.8)
QUALITY = 92
PARTS = ("train", "val")
# folders of COCO and of ADE20K
COCO_SPLITS = {"train": "train2017", "val": "val2017"}
ADE_SPLITS = {"train": "training", "val": "validation"}


def write_detection_scenes(
    root: str | os.PathLike[str],
    *,
    images: tuple[int, int] = (600, 150),
    size: int = 128,
    source: str = "digits",
    seed: int = 0,
    fashion_mnist: str | os.PathLike[str] = FASHION_MNIST,
) -> Path:
    """Writes train2017/, val2017/ and annotations/instances_{train,val}2017.json; a complete set is kept as it is.

    An annotation holds what can be seen of an object: polygons, or run lengths where it has a hole; `pictures` names
    each picture in it as [source, index]. A few images have no object, a few a crowd. The sides of an image are
    1:1, 4:3 or 3:4.

    Args:
        root: the folder to make.
        images: how many, to train and to validate.
        size: pixels of an image's longer side.
        source: "digits", "clothes" or "both".
        seed: other seeds give other scenes.
        fashion_mnist: the folder of Fashion-MNIST's four files.

    Returns:
        The folder.

    Raises:
        UsageError: the pictures are missing, the folder holds something else, or cannot be written.
    """
    settings = check(images, size, source, seed) | {"format": "coco"}
    return write(Path(root), settings, lambda place: write_coco(place, settings, open_sources(source, fashion_mnist)))


def write_segmentation_scenes(
    root: str | os.PathLike[str],
    *,
    images: tuple[int, int] = (600, 150),
    size: int = 128,
    source: str = "digits",
    seed: int = 0,
    fashion_mnist: str | os.PathLike[str] = FASHION_MNIST,
) -> Path:
    """Writes images/{training,validation}/*.jpg, annotations/{training,validation}/*.png and classes.txt.

    A label map has 8 bits: 1 for the ground, 2 and on for the objects, in the order of classes.txt, and 0, which is
    ignored, at their edges. The arguments are those of `write_detection_scenes`; a complete set is kept as it is.
    """
    settings = check(images, size, source, seed) | {"format": "ade20k"}
    return write(Path(root), settings, lambda place: write_ade20k(place, settings, open_sources(source, fashion_mnist)))


def check(images: tuple[int, int], size: int, source: str, seed: int) -> dict[str, Any]:
    """What a set is made with; refuses what cannot be drawn."""
    if min(images) < 1:
        raise UsageError(f"images={images}; expected a number to train and one to validate, 1 or more each")
    if not 48 <= size <= 2048:
        raise UsageError(f"size={size}; expected 48 to 2048 pixels")
    if seed < 0:
        raise UsageError(f"seed={seed}; expected 0 or more")
    return {"images": list(images), "size": size, "source": source, "seed": seed}


def write(root: Path, settings: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Fills a folder beside its place and renames it, so that what stands at `root` is always complete."""
    if is_complete(root, settings):
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} holds other files than these scenes; remove it or name another folder")
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        fill(partial)
        (partial / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        os.replace(partial, root)
    except OSError as error:
        # another process may have been quicker
        if not is_complete(root, settings):
            raise UsageError(f"cannot write the scenes to {root}: {error.strerror}; name another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def is_complete(root: Path, settings: dict[str, Any]) -> bool:
    """Whether all images of a set with these settings are there."""
    try:
        there = (root / SETTINGS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return there == json.dumps(settings) + "\n" and len(list(root.rglob("*.jpg"))) == sum(settings["images"])


def scenes_of(settings: dict[str, Any], sources: Sequence[Source], kind: Kind, part: str) -> list[Scene]:
    """The scenes of a part."""
    place = PARTS.index(part)
    return [
        draw_scene(sources, part=part, size=settings["size"], kind=kind, seed=(settings["seed"], place, number))
        for number in range(settings["images"][place])
    ]


def write_coco(root: Path, settings: dict[str, Any], sources: Sequence[Source]) -> None:
    """The folders and files of `write_detection_scenes`."""
    (root / "annotations").mkdir(parents=True)
    for part, split in COCO_SPLITS.items():
        (root / split).mkdir()
        images, annotations = [], []
        for number, scene in enumerate(scenes_of(settings, sources, DETECTION, part), start=1):
            height, width = scene.cover.shape
            name = f"{number:012d}.jpg"
            save(scene.image, root / split / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for thing in scene.things:
                annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation_of(thing)})
        document = {
            "info": {"description": f"acmix: scenes of {settings['source']}, seed {settings['seed']}"},
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": each.first_id + label, "name": name, "supercategory": "object"}
                for each in sources
                for label, name in enumerate(each.names)
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def annotation_of(thing: Thing) -> dict[str, Any]:
    """What can be seen of an object, as COCO says it."""
    rows, columns = (np.flatnonzero(thing.mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": thing.category,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(thing.mask.sum()),
        "iscrowd": int(thing.crowd),
        "segmentation": run_lengths(thing.mask) if thing.crowd else segmentation_of(thing.mask),
        "pictures": [list(picture) for picture in thing.pictures],
    }


def write_ade20k(root: Path, settings: dict[str, Any], sources: Sequence[Source]) -> None:
    """The folders and files of `write_segmentation_scenes`."""
    ids = [each.first_id + label for each in sources for label in range(len(each.names))]
    for part, split in ADE_SPLITS.items():
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for number, scene in enumerate(scenes_of(settings, sources, SEGMENTATION, part), start=1):
            name = f"ADE_{part}_{number:08d}"
            save(scene.image, root / "images" / split / f"{name}.jpg")
            Image.fromarray(label_map_of(scene, ids)).save(root / "annotations" / split / f"{name}.png")
    names = ["ground", *(name for each in sources for name in each.names)]
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def label_map_of(scene: Scene, ids: Sequence[int]) -> np.ndarray:
    """uint8 (H, W): 1 for the ground, 2 for the first of `ids` and so on, 0 at the edges."""
    labels = np.where(scene.cover > EDGE[0], 0, 1).astype(np.uint8)
    for thing in scene.things:
        labels[thing.mask & (scene.cover > EDGE[1])] = ids.index(thing.category) + 2
    return labels


def save(image: np.ndarray, file: Path) -> None:
    """Writes an image (H, W, 3) as JPEG."""
    Image.fromarray(image).save(file, quality=QUALITY)
