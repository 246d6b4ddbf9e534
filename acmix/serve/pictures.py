"""From an upload's bytes to what the model reads: the header first, and the pixels only where they are not too many."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from acmix.data.image import why_unreadable
from acmix.data.pixels import DECODE_ERRORS, formats
from acmix.errors import UsageError
from acmix.serve.uploads import Upload
from acmix.tools.predict import Predictor


class NamedBytes(io.BytesIO):
    """Bytes in memory that messages call by their file's name."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(upload.content)
        self.name = upload.called


def pixels_of(upload: Upload, most: int) -> int:
    """The pixels that an image's header tells, without decoding any.

    Raises:
        UsageError: it is no image, or has more than `most`.
    """
    if not upload.content:
        raise UsageError(f"cannot read image {upload.called}: the file is empty; send an image")
    try:
        with Image.open(NamedBytes(upload), formats=formats()) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width, height = 0, 0
    except DECODE_ERRORS as error:
        why = why_unreadable(NamedBytes(upload), error)
        raise UsageError(f"cannot read image {upload.called}: {why}; send another format, or the whole file") from None
    if not 0 < width * height <= most:
        most_million = f"{most / 1e6:g} million"
        raise UsageError(f"{upload.name} has too many pixels: at most {most_million} are taken; make it smaller")
    return width * height


def prepared(predictor: Predictor, upload: Upload) -> Any:
    """An image as the model reads it.

    Raises:
        UsageError: it cannot be read.
    """
    found = predictor.prepared(NamedBytes(upload))
    if isinstance(found, str):
        raise UsageError(found)
    return found
