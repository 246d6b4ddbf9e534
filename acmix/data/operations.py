"""Operations of timm's augmentations on arrays, with Pillow's results.

Each takes a picture or its pixels, uint8 (H, W, C) or (H, W), and gives the same kind back. A policy that is handed
pixels needs no picture in between; what Pillow does best, such as a rotation, makes one for itself.
"""

# H, W height and width of the picture, C its channels

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from timm.data import auto_augment

from acmix.data.moves import moved

# a picture, or its pixels
Shown = TypeVar("Shown", Image.Image, np.ndarray)
Operation = Callable[..., Any]
# every value that a pixel can have
RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def use_operations(steps: Sequence[Any], operations: Mapping[Any, Operation]) -> None:
    """Puts operations in the place of timm's in policies of augmentation.

    Args:
        steps: of a transform; others than policies stay as they are.
        operations: by timm's function.
    """
    for operation in operations_of(steps):
        operation.aug_fn = operations.get(operation.aug_fn, operation.aug_fn)


def use_arrays(steps: Sequence[Any]) -> None:
    """Puts `QUICK` into policies, and lets those that `takes_pixels` names take pixels."""
    use_operations(steps, QUICK)
    for operation in operations_of(list(filter(takes_pixels, steps))):
        if operation.aug_fn not in QUICK.values() and not isinstance(operation.aug_fn, functools.partial):
            operation.aug_fn = functools.partial(by_picture, operation.aug_fn)


def takes_pixels(step: Any) -> bool:
    """Whether a step does nothing to a picture but hand it to its operations."""
    return isinstance(step, auto_augment.RandAugment | auto_augment.AutoAugment)


def operations_of(steps: Sequence[Any]) -> Iterator[Any]:
    """The operations in policies: RandAugment and AugMix hold them, AutoAugment holds pairs of them."""
    for step in steps:
        yield from (*getattr(step, "ops", []), *itertools.chain(*getattr(step, "policy", [])))


def by_picture(operation: Operation, shown: Shown, *amounts: Any, **options: Any) -> Shown:
    """Does by Pillow what has a picture for its first argument."""
    if isinstance(shown, Image.Image):
        return operation(shown, *amounts, **options)
    return np.array(operation(Image.fromarray(shown), *amounts, **options))


def on_pixels(operation: Callable[..., np.ndarray]) -> Operation:
    """Lets an operation on pixels take pictures too."""

    @functools.wraps(operation)
    def done(shown: Shown, *amounts: Any, **options: Any) -> Shown:
        if isinstance(shown, Image.Image):
            return Image.fromarray(operation(np.asarray(shown), *amounts, **options))
        return operation(shown, *amounts, **options)

    return done


def posterize(shown: Shown, bits: int, **options: Any) -> Shown:
    """timm's `posterize`, to no bits or fewer too: a black picture.

    RandAugment asks for it at magnitude 10, which "rand-m9-mstd0.5-inc1" draws now and then; Pillow 13 refuses it.
    """
    if bits >= 8:
        return shown
    mask = 0xFF & ~(0xFF >> max(bits, 0))
    if isinstance(shown, Image.Image):
        return Image.new(shown.mode, shown.size) if bits <= 0 else auto_augment.posterize(shown, bits, **options)
    return shown & np.uint8(mask)


@on_pixels
def invert(pixels: np.ndarray, **options: Any) -> np.ndarray:
    """timm's `invert`."""
    return ~pixels


@on_pixels
def solarize(pixels: np.ndarray, thresh: int, **options: Any) -> np.ndarray:
    """timm's `solarize`: values from a threshold on are inverted."""
    if thresh > 255:
        return pixels.copy()
    # 0 or 255; the latter inverts
    return pixels ^ -(pixels >= np.uint8(max(thresh, 0))).view(np.uint8)


@on_pixels
def solarize_add(pixels: np.ndarray, add: int, thresh: int = 128, **options: Any) -> np.ndarray:
    """timm's `solarize_add`: values below a threshold grow, to 255 at most."""
    added = (pixels < thresh).view(np.uint8) * np.uint8(min(add, 255))
    return np.minimum(pixels, ~added) + added


@on_pixels
def auto_contrast(pixels: np.ndarray, **options: Any) -> np.ndarray:
    """timm's `auto_contrast`; a picture that has black and white in each channel stays as it is."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    least, most = (each.reshape(width, -1) for each in (rows.min(0), rows.max(0)))  # (W, C)
    least, most = least.min(0), most.max(0)
    if not least.any() and (most == 255).all():
        return pixels.copy()
    return by_picture(auto_augment.auto_contrast, pixels)


@on_pixels
def brightness(pixels: np.ndarray, factor: float, **options: Any) -> np.ndarray:
    """timm's `brightness`: a mixture with black."""
    return blended(pixels, 0, factor)


@on_pixels
def contrast(pixels: np.ndarray, factor: float, **options: Any) -> np.ndarray:
    """timm's `contrast`: a mixture with the mean grey."""
    grey = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
    return blended(pixels, int(int(grey.sum(dtype=np.int64)) / grey.size + 0.5), factor)


@on_pixels
def sharpness(pixels: np.ndarray, factor: float, **options: Any) -> np.ndarray:
    """timm's `sharpness`: a mixture of the picture and a smoothed one, or what lies beyond the picture."""
    if min(pixels.shape[:2]) < 3:
        return by_picture(auto_augment.sharpness, pixels, factor)
    wide = pixels.astype(np.uint16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    weighted = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = pixels.copy()
    # a thirteenth, rounded; Pillow leaves the border as it is
    smooth[1:-1, 1:-1] = (2 * weighted + 13) // 26
    return np.array(Image.blend(Image.fromarray(smooth), Image.fromarray(pixels), factor))


@on_pixels
def shear_x(pixels: np.ndarray, factor: float, **options: Any) -> np.ndarray:
    """timm's `shear_x`: the middle of row y is read `factor` y further right."""
    return shifted(pixels, factor * (np.arange(pixels.shape[0]) + 0.5), 1, (1, factor, 0, 0, 1, 0), **options)


@on_pixels
def shear_y(pixels: np.ndarray, factor: float, **options: Any) -> np.ndarray:
    """timm's `shear_y`: the middle of column x is read `factor` x further down."""
    return shifted(pixels, factor * (np.arange(pixels.shape[1]) + 0.5), 0, (1, 0, 0, factor, 1, 0), **options)


@on_pixels
def translate_x_abs(pixels: np.ndarray, length: float, **options: Any) -> np.ndarray:
    """timm's `translate_x_abs`: the picture moves left by so many pixels."""
    return shifted(pixels, np.full(pixels.shape[0], float(length)), 1, (1, 0, length, 0, 1, 0), **options)


@on_pixels
def translate_y_abs(pixels: np.ndarray, length: float, **options: Any) -> np.ndarray:
    """timm's `translate_y_abs`: the picture moves up by so many pixels."""
    return shifted(pixels, np.full(pixels.shape[1], float(length)), 0, (1, 0, 0, 0, 1, length), **options)


@on_pixels
def translate_x_rel(pixels: np.ndarray, pct: float, **options: Any) -> np.ndarray:
    """timm's `translate_x_rel`: by a share of the width."""
    return translate_x_abs(pixels, pct * pixels.shape[1], **options)


@on_pixels
def translate_y_rel(pixels: np.ndarray, pct: float, **options: Any) -> np.ndarray:
    """timm's `translate_y_rel`: by a share of the height."""
    return translate_y_abs(pixels, pct * pixels.shape[0], **options)


# what timm itself needs with Pillow 13
MENDED: dict[Any, Operation] = {auto_augment.posterize: posterize}
QUICK: dict[Any, Operation] = {
    **MENDED,
    auto_augment.invert: invert,
    auto_augment.solarize: solarize,
    auto_augment.solarize_add: solarize_add,
    auto_augment.auto_contrast: auto_contrast,
    auto_augment.brightness: brightness,
    auto_augment.contrast: contrast,
    auto_augment.sharpness: sharpness,
    auto_augment.shear_x: shear_x,
    auto_augment.shear_y: shear_y,
    auto_augment.translate_x_abs: translate_x_abs,
    auto_augment.translate_y_abs: translate_y_abs,
    auto_augment.translate_x_rel: translate_x_rel,
    auto_augment.translate_y_rel: translate_y_rel,
}
Matrix = tuple[float, float, float, float, float, float]


def blended(pixels: np.ndarray, grey: int, factor: float) -> np.ndarray:
    """A mixture of pixels with one grey, by Pillow's table of what becomes of each value."""
    table = Image.blend(Image.new("L", RAMP.size, grey), RAMP, factor).tobytes()
    return np.frombuffer(bytearray(pixels.tobytes()).translate(table), dtype=np.uint8).reshape(pixels.shape)


def shifted(pixels: np.ndarray, shifts: np.ndarray, axis: int, matrix: Matrix, **options: Any) -> np.ndarray:
    """Moves rows or columns, by Pillow with its matrix where the filter is not bicubic.

    Args:
        pixels: uint8 (H, W, C) or (H, W).
        shifts: for `moved`, as the axis is.
        axis: 0 for columns, 1 for rows.
        matrix: the same for Pillow.
        options: timm's `resample`, drawn where there are several filters, as timm draws it, and `fillcolor`.
    """
    resample, fill = options["resample"], options["fillcolor"]
    method = random.choice(resample) if isinstance(resample, list | tuple) else resample
    if method != Image.Resampling.BICUBIC:
        picture = Image.fromarray(pixels)
        affine = Image.Transform.AFFINE
        return np.array(picture.transform(picture.size, affine, matrix, resample=method, fillcolor=fill))
    colour = np.array(fill, dtype=np.uint8).reshape(-1)  # (C,)
    return moved(pixels.reshape(*pixels.shape[:2], -1), shifts, colour, axis).reshape(pixels.shape)
