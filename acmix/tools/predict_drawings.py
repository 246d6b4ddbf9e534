"""Where `acmix predict --output DIR` draws: a picture for each image, in the place of none that is not ours."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from acmix.data.pixels import DECODE_ERRORS, formats
from acmix.errors import UsageError
from acmix.tools.drawing import draw
from acmix.tools.found import Detected, Segmented
from acmix.tools.load import Info
from acmix.train.files import write_atomically

DRAWN_TASKS = ("detect", "segment")
# what a drawing of ours says in its file; only such a file is replaced
MAKER = "acmix predict"
# of the label maps without a picture
LABELS = "labels"


class Drawings:
    """Draws predictions into a folder: NAME.png, and of a segmenter the label map itself as labels/NAME.png.

    Images of one name from several folders get their folder's name in front, or a number behind. A file that is there
    and was not drawn by `acmix predict`, or is one of the images, is left alone: the drawing gets a number.

    Args:
        folder: exists.
        info: of the model.
        images: all that will be predicted, where that is known: an iterator is left unread.
        score: objects of which the model is less sure are not drawn.
    """

    def __init__(self, folder: Path, info: Info, images: Iterable[Any], score: float) -> None:
        self.folder, self.score, self.read = folder, score, info.transform.rgb
        task = info.config.task if info.config is not None else None
        self.first_label = 1 if task is not None and task.ignore_zero else 0
        self.with_labels = info.task == "segment"
        self.did = "drawn in" if not self.with_labels else f"drawn, with label maps in {LABELS}/, in"
        known = images if isinstance(images, list) else []
        self.sources = {os.path.realpath(each) for each in known if isinstance(each, str)}
        # whether a drawing has an object or a class on it
        self.shows_something = False
        # names that this run has given, as file systems without upper case see them
        self.given: set[str] = set()

    def draw(self, found: Detected | Segmented) -> None:
        """Draws one prediction."""
        try:
            picture = self.read(found.image)
        except UsageError as error:
            raise UsageError(f"{error}; it was there a moment ago") from None
        self.sources.add(os.path.realpath(found.image))
        name = next(name for name in names_for(found.image) if self.is_free(name))
        self.given.add(name.casefold())
        if isinstance(found, Detected):
            found = replace(found, objects=[each for each in found.objects if each.score >= self.score])
        self.shows_something |= not isinstance(found, Detected) or bool(found.objects)
        self.save(draw(found, picture), self.folder / name)
        if isinstance(found, Segmented) and found.labels is not None:
            self.save(label_map(found.labels, self.first_label), self.folder / LABELS / name)

    def is_free(self, name: str) -> bool:
        """Whether a name is given to no other drawing, and all files of that name may be written."""
        places = [self.folder / name, *([self.folder / LABELS / name] if self.with_labels else [])]
        return name.casefold() not in self.given and all(self.may_write(place) for place in places)

    def may_write(self, place: Path) -> bool:
        """Whether nothing is there, or a drawing of an earlier run that is none of the images."""
        if not os.path.lexists(place):
            return True
        if os.path.realpath(place) in self.sources:
            return False
        try:
            with Image.open(place, formats=formats()) as there:
                return there.info.get("Software") == MAKER
        except DECODE_ERRORS:
            return False

    def save(self, picture: Image.Image, place: Path) -> None:
        """Writes a drawing at once."""
        told = PngImagePlugin.PngInfo()
        told.add_text("Software", MAKER)
        buffer = io.BytesIO()
        picture.save(buffer, format="png", pnginfo=told)
        try:
            place.parent.mkdir(exist_ok=True)
            write_atomically(place, buffer.getvalue())
        except OSError as error:
            raise UsageError(f"cannot write {place}: {error.strerror or error}; choose another --output") from None


def names_for(image: str) -> Iterator[str]:
    """Names for the drawing of an image, the best first."""
    path = Path(image)
    yield f"{path.stem}.png"
    folder = path.absolute().parent.name
    if folder:
        yield f"{folder}_{path.stem}.png"
    number = 2
    while True:
        yield f"{path.stem}_{number}.png"
        number += 1


def label_map(labels: np.ndarray[Any, Any], first_label: int) -> Image.Image:
    """A label map as the data sets have them: the value of the first class is `first_label`; 8 bits where they do."""
    kind = np.uint8 if int(labels.max()) + first_label <= 255 else np.uint16
    return Image.fromarray(labels.astype(kind) + kind(first_label))
