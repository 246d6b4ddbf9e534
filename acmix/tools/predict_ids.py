"""The ids that a file of COCO annotations gives images and categories: results with them can be measured against it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from acmix.data.coco import load, read_categories, read_images
from acmix.errors import UsageError
from acmix.names import composed
from acmix.tools.found import Detected


class Ids:
    """Gives COCO's results the ids of a file of annotations; a list of images and categories without objects will do.

    Args:
        file: JSON in COCO's format.
        classes: that a model names, each of which the file has to list.

    Raises:
        UsageError: no such file, or it lacks a class.
    """

    def __init__(self, file: Path, classes: Sequence[str]) -> None:
        self.file = file
        content = load(file, ("images", "categories"))
        names, category_ids = read_categories(file, content["categories"])
        self.category_ids = dict(zip(map(composed, names), category_ids, strict=True))
        if lacking := [name for name in classes if composed(name) not in self.category_ids]:
            some = ", ".join(map(repr, lacking[:5])) + (" and more" if len(lacking) > 5 else "")
            raise UsageError(f"{file} has no category {some}, which the model names; give annotations of its classes")
        names, image_ids, _ = read_images(file, content["images"])
        self.images: dict[str, list[tuple[str, int]]] = {}
        for name, identity in zip(map(composed, names), image_ids, strict=True):
            self.images.setdefault(os.path.basename(name), []).append((name, identity))

    def of_image(self, image: str) -> int:
        """The id of the image whose `file_name` a path ends in.

        Raises:
            UsageError: there is none.
        """
        path = composed(os.path.abspath(image))
        # of a/0.jpg and 0.jpg the longer one
        for name, identity in sorted(self.images.get(os.path.basename(path), []), key=lambda each: -len(each[0])):
            if path.endswith(os.path.join(os.sep, name)):
                return identity
        raise UsageError(f"{self.file} lists no image {image}; give the images that it lists, or leave --ids out")

    def check(self, images: Iterable[Any]) -> None:
        """Refuses images that the file does not list, before one is looked at."""
        for image in images:
            if isinstance(image, (str, os.PathLike)) and os.path.isfile(image):
                self.of_image(os.fspath(image))

    def rows(self, one: Detected) -> list[dict[str, Any]]:
        """The objects of an image in COCO's result format."""
        rows = one.as_coco()
        image_id = self.of_image(one.image) if rows else 0
        told = [(self.category_ids[composed(each.name)], row) for each, row in zip(one.objects, rows, strict=True)]
        return [{**row, "image_id": image_id, "category_id": category_id} for category_id, row in told]
