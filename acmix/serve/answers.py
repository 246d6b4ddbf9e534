"""What is found in an image, as it is answered: the same values that `acmix predict --json` prints."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from typing import Any

from PIL import Image

from acmix.errors import UsageError
from acmix.tools.found import Array, Detected
from acmix.tools.predict import Found
from acmix.tools.predict_classes import Prediction
from acmix.tools.predict_writers import rows_of


def answer_of(one: Found) -> dict[str, Any]:
    """One image's part of an answer.

    Returns:
        Of a classifier: `image`, `classes` as pairs of a name and a probability, `error`. Of a detector: `image`,
        `size` (height and width), `objects` in COCO's result format, `error`. Of a segmenter: `image`, `size`,
        `labels`, a PNG in base64 whose values are the classes of the pixels from 0 on, `regions` in COCO's result
        format with the share of the pixels, `error`.
    """
    if isinstance(one, Prediction):
        return asdict(one)
    rows = rows_of(one, None)
    if isinstance(one, Detected):
        return {"image": one.image, "size": one.size, "objects": rows, "error": one.error}
    labels = None if one.labels is None else png(one.labels)
    return {"image": one.image, "size": one.size, "labels": labels, "regions": rows, "error": one.error}


def unread(task: str, name: str, error: UsageError) -> dict[str, Any]:
    """The part of an image that cannot be read."""
    empty = {
        "classify": {"classes": []},
        "detect": {"size": None, "objects": []},
        "segment": {"size": None, "labels": None, "regions": []},
    }[task]
    return {"image": name, **empty, "error": str(error)}


def png(labels: Array) -> str:
    """A label map (h, w), uint8 or uint16, as a PNG in base64."""
    return encoded(Image.fromarray(labels), "PNG")


def encoded(picture: Image.Image, kind: str) -> str:
    """A picture in base64."""
    file = io.BytesIO()
    picture.save(file, kind)
    return base64.b64encode(file.getvalue()).decode("ascii")
