"""From the bytes of one image file to an RGB picture, and the transforms that follow."""

from __future__ import annotations

import itertools
import os
import struct
import tarfile
import warnings
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from acmix.config import Augment, Data
from acmix.errors import UsageError

# everything Pillow's decoders are known to raise on damaged bytes
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    Image.DecompressionBombError,
)


def read_image(source: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Reads one image to the last byte and returns it as RGB, whatever its mode.

    Args:
        source: a path, or an open binary file.

    Returns:
        The picture, mode "RGB", 8 bits a channel. 16-bit grey values are divided by 256; transparency is dropped.

    Raises:
        UsageError: no such file, an empty or truncated one, or not an image.
    """
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "the image")
    try:
        with warnings.catch_warnings():
            # damaged EXIF, palettes with transparency: the pixels are unaffected
            warnings.simplefilter("ignore")
            with Image.open(source) as image:
                image.load()
                return to_rgb(image)
    except DECODE_ERRORS as error:
        raise UsageError(f"cannot read image {path}: {why_unreadable(path, error)}; replace or remove it") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB.

    Pillow clips 16-bit grey to 255, which turns nearly every pixel white, so these modes are scaled here.
    """
    if image.mode == "RGB":
        return image.copy()
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        return image.convert("L").convert("RGB")
    return image.convert("RGB")


def why_unreadable(path: Any, error: Exception) -> str:
    """A few words for a person, without Pillow's repeated file name."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(path, str | os.PathLike):
        if Path(path).is_dir():
            return "it is a folder, an image file was expected"
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
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
    return with_channels(transform, in_chans)


def training_transform(data: Data, augment: Augment, in_chans: int = 3) -> transforms.Compose:
    """Builds what training does to a picture, in timm's order; mixup and cutmix come later, on whole batches.

    As in timm and in the Swin recipe, `auto_augment` switches `color_jitter` off. Arguments, result and errors are as
    for `evaluation_transform`, with `augment` for crops, flips and colours.
    """
    mean, std = normalisation(data, in_chans)
    transform = create_transform(
        data.img_size,
        is_training=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,  # pyright: ignore[reportArgumentType]  (None is allowed)
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode=augment.random_erasing_mode,
        re_count=augment.random_erasing_count,
        interpolation=data.interpolation,
        mean=mean,
        std=std,
    )
    keep_posterize_to_black(transform)
    return with_channels(transform, in_chans)


def keep_posterize_to_black(transform: Any) -> None:
    """Lets timm's augmentations posterize to 0 bits, a black picture, as they always could.

    RandAugment asks for it at magnitude 10, which "rand-m9-mstd0.5-inc1" draws now and then; Pillow 13 refuses it.
    """
    for step in transform.transforms:
        # RandAugment and AugMix hold operations, AutoAugment holds pairs of them
        operations = [*getattr(step, "ops", []), *itertools.chain(*getattr(step, "policy", []))]
        for operation in operations:
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterize


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """The picture with so many bits a channel, none included."""
    if bits == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits, **options)


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
    if min(values[1]) <= 0:
        raise UsageError(f"data.std={list(data.std)}; expected values above 0")
    return values[0], values[1]


def with_channels(transform: Any, in_chans: int) -> transforms.Compose:
    """Puts the step to grey in front where the model reads one channel."""
    steps = [transforms.Grayscale()] if in_chans == 1 else []
    return transforms.Compose([*steps, *transform.transforms])
