"""What an image's bytes hold: its size, format and kind, or why it cannot be read."""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from typing import IO

from PIL import Image

from acmix.data.image import why_unreadable
from acmix.data.pixels import DECODE_ERRORS, formats, raw_mode
from acmix.data.shards.index import LARGEST_IMAGE

# the usual extension of a format, by Pillow's name
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


@dataclass(frozen=True)
class Looked:
    """An image that was decoded to its last byte.

    Args:
        reason: why it is unreadable; "" where it is not, and then follow
        width, height: in pixels, as stored;
        extension: of its format, whatever the file is called;
        deep: whether it has more than 8 bits a channel;
        cmyk, animated: whether it is.
    """

    reason: str = ""
    width: int = 0
    height: int = 0
    extension: str = ""
    deep: bool = False
    cmyk: bool = False
    animated: bool = False


def look(content: bytes) -> Looked:
    """Decodes an image; of a film, the first picture."""
    if not content:
        return Looked("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=formats()) as image:
                stored, form = raw_mode(image), image.format or ""
                animated = bool(getattr(image, "is_animated", False))
                image.load()
                return Looked(
                    width=image.width,
                    height=image.height,
                    extension=EXTENSIONS.get(form, form.lower()),
                    deep=image.mode.startswith(("I", "F")) or "16" in stored,
                    cmyk=image.mode == "CMYK",
                    animated=animated and form != "MPO",
                )
    except DECODE_ERRORS as error:
        return Looked(why_unreadable("", error))


def bytes_of(opened: str | IO[bytes]) -> tuple[bytes, str]:
    """The bytes of a source's row, or why there are none."""
    try:
        if isinstance(opened, str):
            # never of a pipe or a device, which may not end
            state = os.stat(opened)
            if not stat.S_ISREG(state.st_mode):
                return b"", "a pipe, a socket, a device or a folder; an image file was expected"
            if state.st_size > LARGEST_IMAGE:
                return b"", f"larger than {LARGEST_IMAGE >> 20} MiB"
            with open(opened, "rb") as file:
                content = file.read(LARGEST_IMAGE + 1)
        else:
            with opened as file:
                content = file.read(LARGEST_IMAGE + 1)
    except FileNotFoundError:
        return b"", "no such file"
    except OSError as error:
        return b"", error.strerror or str(error)
    return (b"", f"larger than {LARGEST_IMAGE >> 20} MiB") if len(content) > LARGEST_IMAGE else (content, "")
