"""From the bytes of one image file to an RGB picture, and what evaluation does to it."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from functools import partial
from typing import IO, Any

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg

from acmix.config import Data
from acmix.data.pixels import DECODE_ERRORS, WHITE, Colour, UnknownScaleError, formats, raw_mode, to_rgb, turn_of
from acmix.data.resized import bounded
from acmix.errors import UsageError

# how a JPEG file begins, and how a whole one ends
JPEG_BEGIN, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# a longer file is read by Pillow, which reads on as it decodes
MOST_JPEG_BYTES = 2**26


def read_image(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    background: Colour = WHITE,
    white: float | None = None,
    size: tuple[int, int] | None = None,
    reduced: Callable[[Image.Image], int] | None = None,
) -> Image.Image:
    """Reads one image to the last byte and returns it as RGB, from any mode; of a film, the first picture.

    Args:
        source: a path, or an open binary file.
        background: what transparent pixels are laid on: red, green and blue, 0 to 255.
        white: the value that is white in grey of more than 8 bits; None: as `acmix.data.pixels` says.
        size: width and height of labels drawn on the picture, whose tools may not have turned it. A picture stored
            in this size stays as stored.
        reduced: told of a JPEG file that is not turned, before it is decoded; gives 1, 2, 4 or 8, and the picture is
            decoded at one of so many parts of its sides, rounded up.

    Returns:
        The picture, mode "RGB", 8 bits a channel, turned as its EXIF orientation says (but see `size`).

    Raises:
        UsageError: no such file, no regular one, an empty or truncated one, not an image, or one whose values have no
            known scale.
    """
    with warnings.catch_warnings():
        # damaged EXIF, sizes between Pillow's limit and twice that: the pixels are unaffected
        warnings.simplefilter("ignore")
        return decoded(source, background=background, white=white, size=size, reduced=reduced)


def decoded(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    background: Colour = WHITE,
    white: float | None = None,
    size: tuple[int, int] | None = None,
    reduced: Callable[[Image.Image], int] | None = None,
) -> Image.Image:
    """`read_image` for one of several threads: Python's filters of warnings belong to all of them."""
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "in memory")
    try:
        if isinstance(source, str | os.PathLike) and not stat.S_ISREG(os.stat(source).st_mode):
            # to open a pipe may wait for ever
            raise OSError("a pipe, a socket or a device, an image file was expected")
        with Image.open(source, formats=formats()) as image:
            stored = raw_mode(image)
            if reduced is not None and image.format == "JPEG" and turn_of(image) is None:
                parts = reduced(image)
                image.draft(None, (image.width // parts, image.height // parts))
            image.load()
            return to_rgb(image, background, white, stored=stored, size=size)
    except UnknownScaleError as error:
        raise UsageError(f"cannot read image {path}: {error}") from None
    except DECODE_ERRORS as error:
        raise UsageError(f"cannot read image {path}: {why_unreadable(source, error)}; replace or remove it") from None


def jpeg_pixels(
    source: str | os.PathLike[str] | IO[bytes], reduced: Callable[[Image.Image], int] | None = None
) -> torch.Tensor | None:
    """Reads an ordinary JPEG file, to the same bits as `read_image` in less time.

    Args:
        source: a path, or a binary file that can be read again.
        reduced: as for `read_image`.

    Returns:
        uint8 (3, h, w), whose channels lie side by side in memory. None where `read_image` is to read it, or to say why
        not: another format, grey or CMYK, turned by its EXIF, to be reduced, cut off or damaged.
    """
    try:
        content = content_of(source)
        if content[-2:] != JPEG_END:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                if image.format != "JPEG" or image.mode != "RGB" or turn_of(image) is not None:
                    return None
                if reduced is not None and reduced(image) > 1:
                    return None
        found = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode=ImageReadMode.RGB)
        assert isinstance(found, torch.Tensor)
        return found
    except (*DECODE_ERRORS, RuntimeError):
        return None


def content_of(source: str | os.PathLike[str] | IO[bytes]) -> bytearray:
    """The bytes of a JPEG file; none of what begins otherwise, is too long, or is a pipe, which may not end."""
    if not isinstance(source, str | os.PathLike):
        content = begun(source)
        source.seek(0)
        return content
    if not stat.S_ISREG(os.stat(source).st_mode):
        return bytearray()
    with open(source, "rb") as file:
        return begun(file)


def begun(file: IO[bytes]) -> bytearray:
    """What is in an open file, if it begins as a JPEG file and is no longer than one may be."""
    content = bytearray(file.read(len(JPEG_BEGIN)))
    if content != JPEG_BEGIN:
        return bytearray()
    content += file.read(MOST_JPEG_BYTES)
    return content if len(content) < MOST_JPEG_BYTES else bytearray()


def reader(data: Data) -> Callable[..., Image.Image]:
    """`read_image` with a configuration's background and white."""
    return partial(read_image, background=data.background_rgb, white=data.white)


def why_unreadable(source: Any, error: Exception) -> str:
    """A few words for a person, without Pillow's repeated file name.

    Args:
        source: a path, which is looked at; or an open file, whose name may be a stranger's and is not.
        error: what was raised.
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(source, str | os.PathLike):
        if os.path.isdir(source):
            return "it is a folder, an image file was expected"
        if os.path.isfile(source) and os.path.getsize(source) == 0:
            return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def evaluation_transform(data: Data, in_chans: int = 3) -> transforms.Compose:
    """Builds what evaluation does to a picture: resize the short side to img_size / crop_pct, centre crop, normalise.

    Args:
        data: gives img_size, crop_pct, interpolation, mean and std.
        in_chans: 3, or 1 for grey; mean and std of three channels are then averaged.

    Returns:
        A transform from an RGB picture to float32 (in_chans, img_size, img_size).

    Raises:
        UsageError: mean or std do not fit in_chans.
    """
    mean, std = normalisation(data, in_chans)
    transform = create_transform(
        data.img_size,
        is_training=False,
        # "random" is a training augmentation
        interpolation="bicubic" if data.interpolation == "random" else data.interpolation,
        mean=mean,
        std=std,
        crop_pct=data.crop_pct,
    )
    return with_channels(bounded(transform), in_chans)


def normalisation(data: Data, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, one value a channel."""
    if in_chans not in (1, 3):
        raise UsageError(f"model.in_chans={in_chans}; expected 3, or 1 for grey images")
    values = []
    for key, given in (("mean", data.mean), ("std", data.std)):
        if in_chans == 1 and len(given) == 3:
            given = (sum(given) / 3,)
        if len(given) != in_chans:
            raise UsageError(
                f"data.{key} has {len(given)} values and model.in_chans={in_chans}; give one value per channel"
            )
        values.append(tuple(given))
    # float32 has to divide by it
    if min(values[1]) < 1e-6:
        raise UsageError(f"data.std={list(data.std)}; expected values above 0, 1e-6 at least")
    return values[0], values[1]


def with_channels(transform: Any, in_chans: int) -> transforms.Compose:
    """Puts the step to grey in front where the model reads one channel."""
    steps = [transforms.Grayscale()] if in_chans == 1 else []
    return transforms.Compose([*steps, *transform.transforms])
