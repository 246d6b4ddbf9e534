"""Makes small data sets in COCO's format, of real JPEG files with one or two rectangles in each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("cat", "dog", "bird")
Change = Callable[[dict[str, Any]], object]


def annotation(identity: int, image: int, box: Sequence[float], *, category: int = 1, **more: Any) -> dict[str, Any]:
    """A rectangle as an annotation, with a polygon around it."""
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [polygon],
        **more,
    }


def oracle_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """An outline as pycocotools has it, uint8 (h, w)."""
    from pycocotools import mask

    codes = segmentation
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        codes = mask.frPyObjects(segmentation, height, width)
    with warnings.catch_warnings():
        # pycocotools meets NumPy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        return mask.decode(mask.merge(codes) if isinstance(codes, list) else codes)


def make_split(
    root: Path,
    split: str,
    images: int,
    *,
    names: Sequence[str] = NAMES,
    ids: Sequence[int] | None = None,
    size: tuple[int, int] = (48, 32),
    change: Change | None = None,
) -> dict[str, Any]:
    """Writes root/split/*.jpg and root/annotations/instances_split.json; every third image is high, the rest wide.

    Args:
        root: the folder of the data set.
        split: its name.
        images: how many.
        names: of the categories.
        ids: of the categories; by default 1, 2, ….
        size: width and height of a wide image.
        change: is given what is to be written, to damage it.

    Returns:
        What was written.
    """
    ids = range(1, len(names) + 1) if ids is None else ids
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": identity, "name": name} for identity, name in zip(ids, names, strict=True)],
    }
    for number in range(images):
        rng = np.random.default_rng([len(split), number])
        width, height = size[::-1] if number % 3 == 2 else size
        picture = Image.fromarray(rng.integers(0, 80, (height, width, 3), dtype=np.uint8))
        image = 10 + number
        for which in range(1 + number % 2):
            w, h = int(rng.integers(6, width // 2)), int(rng.integers(6, height // 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            label = (number + which) % len(names)
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=(250, 80 * label, 0))
            identity = len(content["annotations"]) + 1
            content["annotations"].append(annotation(identity, image, (x, y, w, h), category=ids[label]))
        name = f"{number:04d}.jpg"
        picture.save(root / split / name, quality=95)
        content["images"].append({"id": image, "file_name": name, "width": width, "height": height})
    if change is not None:
        change(content)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return content
