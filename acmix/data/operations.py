"""Slow operations of timm's augmentations on arrays: shears, translations and sharpness, with Pillow's results.

A shear or a translation along x moves each row by one amount, so four neighbours in the row make a pixel, and not
sixteen. With d the part of a pixel by which a row is moved, and v1 to v4 the neighbours, Pillow's bicubic filter is

    v2 + d ((v3 - v1) + d ((2 (v1 - v2) + v3 - v4) + d (v2 - v1 + v4 - v3)))

whose fraction is cut off. It is computed in float32 here and in float64 there, so that of 10,000 values about one is
off by one. Along y, the picture is transposed first.
"""

# H, W height and width of the picture, C its channels

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment

# rows that are computed at a time: their numbers stay in the processor's cache
ROWS = 28


def use_operations(steps: Sequence[Any], operations: Mapping[Any, Callable[..., Image.Image]]) -> None:
    """Puts operations in the place of timm's in policies of augmentation.

    Args:
        steps: of a transform; others than policies stay as they are.
        operations: by timm's function; `QUICK` has all of this file.
    """
    for step in steps:
        # RandAugment and AugMix hold operations, AutoAugment holds pairs of them
        for operation in (*getattr(step, "ops", []), *itertools.chain(*getattr(step, "policy", []))):
            operation.aug_fn = operations.get(operation.aug_fn, operation.aug_fn)


def posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's `posterize`, to no bits or fewer too: a black picture.

    RandAugment asks for it at magnitude 10, which "rand-m9-mstd0.5-inc1" draws now and then; Pillow 13 refuses it.
    """
    if bits <= 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits, **options)


def sharpness(image: Image.Image, factor: float, **options: Any) -> Image.Image:
    """timm's `sharpness`: a mixture of the picture and a smoothed one, or what lies beyond the picture."""
    pixels = np.asarray(image)  # (H, W, C) or (H, W)
    if min(pixels.shape[:2]) < 3:
        return auto_augment.sharpness(image, factor, **options)
    wide = pixels.astype(np.uint16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    weighted = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = pixels.copy()
    # a thirteenth, rounded; Pillow leaves the border as it is
    smooth[1:-1, 1:-1] = (2 * weighted + 13) // 26
    return Image.blend(Image.fromarray(smooth), image, factor)


def shear_x(image: Image.Image, factor: float, **options: Any) -> Image.Image:
    """timm's `shear_x`: the middle of row y is read `factor` y further right."""
    return along_x(image, lambda middles: factor * middles, (1, factor, 0, 0, 1, 0), **options)


def shear_y(image: Image.Image, factor: float, **options: Any) -> Image.Image:
    """timm's `shear_y`: the middle of column x is read `factor` x further down."""
    return along_y(image, lambda middles: factor * middles, (1, 0, 0, factor, 1, 0), **options)


def translate_x_abs(image: Image.Image, pixels: float, **options: Any) -> Image.Image:
    """timm's `translate_x_abs`: the picture moves left by so many pixels."""
    return along_x(image, lambda middles: np.full_like(middles, pixels), (1, 0, pixels, 0, 1, 0), **options)


def translate_y_abs(image: Image.Image, pixels: float, **options: Any) -> Image.Image:
    """timm's `translate_y_abs`: the picture moves up by so many pixels."""
    return along_y(image, lambda middles: np.full_like(middles, pixels), (1, 0, 0, 0, 1, pixels), **options)


def translate_x_rel(image: Image.Image, pct: float, **options: Any) -> Image.Image:
    """timm's `translate_x_rel`: by a share of the width."""
    return translate_x_abs(image, pct * image.width, **options)


def translate_y_rel(image: Image.Image, pct: float, **options: Any) -> Image.Image:
    """timm's `translate_y_rel`: by a share of the height."""
    return translate_y_abs(image, pct * image.height, **options)


# what timm itself needs with Pillow 13
MENDED: dict[Any, Callable[..., Image.Image]] = {auto_augment.posterize: posterize}
QUICK: dict[Any, Callable[..., Image.Image]] = {
    **MENDED,
    auto_augment.sharpness: sharpness,
    auto_augment.shear_x: shear_x,
    auto_augment.shear_y: shear_y,
    auto_augment.translate_x_abs: translate_x_abs,
    auto_augment.translate_y_abs: translate_y_abs,
    auto_augment.translate_x_rel: translate_x_rel,
    auto_augment.translate_y_rel: translate_y_rel,
}
Shifts = Callable[[np.ndarray], np.ndarray]
Matrix = tuple[float, float, float, float, float, float]


def along_x(image: Image.Image, shifts: Shifts, matrix: Matrix, **options: Any) -> Image.Image:
    """Moves the rows of a picture: from `shifts` where the filter is bicubic, else by Pillow with its matrix."""
    method, fill = method_of(options["resample"]), options["fillcolor"]
    if method != Image.Resampling.BICUBIC:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=method, fillcolor=fill)
    return moved(image, shifts(np.arange(image.height) + 0.5), fill)


def along_y(image: Image.Image, shifts: Shifts, matrix: Matrix, **options: Any) -> Image.Image:
    """Moves the columns of a picture, as `along_x` moves rows."""
    method, fill = method_of(options["resample"]), options["fillcolor"]
    if method != Image.Resampling.BICUBIC:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=method, fillcolor=fill)
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    return moved(turned, shifts(np.arange(image.width) + 0.5), fill).transpose(Image.Transpose.TRANSPOSE)


def method_of(resample: Any) -> Image.Resampling:
    """The filter, drawn where there are several, as timm draws it."""
    return random.choice(resample) if isinstance(resample, list | tuple) else resample


def moved(image: Image.Image, shifts: np.ndarray, fill: Any) -> Image.Image:
    """A picture whose rows are read so much further right, by Pillow's bicubic filter.

    Args:
        image: mode "RGB" or "L".
        shifts: float64 (H,), in pixels.
        fill: the colour of what lies outside the picture.
    """
    pixels = np.asarray(image)  # (H, W, C) or (H, W)
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    whole = np.floor(shifts).astype(np.int64)  # (H,)
    parts = (shifts - whole).astype(np.float32)[:, None]  # (H, 1)
    # a pixel is inside where its middle is read from inside the picture
    firsts = np.ceil(-0.5 - shifts).clip(0, width).astype(np.int64)[:, None]  # (H, 1)
    ends = np.ceil(width - 0.5 - shifts).clip(0, width).astype(np.int64)[:, None]  # (H, 1)
    first, end = int(firsts.min()), int(ends.max())
    colour = np.array(fill, dtype=np.uint8).reshape(-1)  # (C,)
    line = np.tile(colour, width)  # (W * C,)
    result = np.empty((height, width * channels), dtype=np.uint8)
    if first < end:
        taps = neighbours(pixels.reshape(height, width, channels), whole + first, end - first)
        inner = slice(first * channels, end * channels)
        result[:, : inner.start], result[:, inner.stop :] = line[: inner.start], line[inner.stop :]
        filtered(taps, parts, channels, result[:, inner])
        if int(firsts.max()) > first or int(ends.min()) < end:
            places = np.arange(inner.start, inner.stop)
            outside = (places < firsts * channels) | (places >= ends * channels)  # (H, (end - first) * C)
            np.copyto(result[:, inner], line[inner], where=outside)
    else:
        result[:] = line
    return Image.fromarray(result.reshape(pixels.shape))


def neighbours(pixels: np.ndarray, begins: np.ndarray, count: int) -> np.ndarray:
    """The pixels of each row that `count` filtered ones depend on; beyond the border, those of the border.

    Args:
        pixels: uint8 (H, W, C).
        begins: int64 (H,): the second neighbour of each row's first filtered pixel.
        count: filtered pixels a row.

    Returns:
        uint8 (H, (count + 3) * C).
    """
    height, width, channels = pixels.shape
    before = max(0, 1 - int(begins.min()))
    after = max(0, int(begins.max()) + count + 2 - width)
    padded = np.empty((height, before + width + after, channels), dtype=np.uint8)
    padded[:, before : before + width] = pixels
    padded[:, :before], padded[:, before + width :] = pixels[:, :1], pixels[:, -1:]
    padded = padded.reshape(height, -1)
    taps = np.empty((height, (count + 3) * channels), dtype=np.uint8)
    # neighbouring rows that begin alike are copied at once
    cuts = [0, *(np.flatnonzero(np.diff(begins)) + 1).tolist(), height]
    for top, bottom in itertools.pairwise(cuts):
        start = (int(begins[top]) - 1 + before) * channels
        taps[top:bottom] = padded[top:bottom, start : start + taps.shape[1]]
    return taps


def filtered(taps: np.ndarray, parts: np.ndarray, channels: int, result: np.ndarray) -> None:
    """Writes the bicubic filter of neighbours, by the equation above.

    Args:
        taps: uint8 (H, (count + 3) * C).
        parts: float32 (H, 1), the d of each row.
        channels: C.
        result: uint8 (H, count * C), written to.
    """
    height, length = result.shape
    floats = np.empty((ROWS, taps.shape[1]), dtype=np.float32)
    buffers = np.empty((3, ROWS, length), dtype=np.float32)
    for top in range(0, height, ROWS):
        d = parts[top : top + ROWS]
        values = floats[: len(d)]
        values[:] = taps[top : top + ROWS]
        v1, v2, v3, v4 = (values[:, k * channels : k * channels + length] for k in range(4))
        left, right, total = buffers[:, : len(d)]
        np.subtract(v1, v2, out=left)
        np.subtract(v4, v3, out=right)
        np.subtract(right, left, out=total)
        total *= d
        left += left
        left -= right
        total += left
        total *= d
        np.subtract(v3, v1, out=left)
        total += left
        total *= d
        total += v2
        np.maximum(total, 0, out=total)
        np.minimum(total, 255, out=total)
        # a fraction is cut off
        result[top : top + ROWS] = total
