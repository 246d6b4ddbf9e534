"""Shears and translations of a picture on arrays, with Pillow's results.

A shear or a translation along x moves each row by one amount, so four neighbours in the row make a pixel, and not
sixteen. With d the part of a pixel by which a row is moved, and v1 to v4 the neighbours, Pillow's bicubic filter, whose
fraction is cut off, is

    v2 + d (v3 - v2) + d (1 - d)^2 (v2 - v1) - d^2 (1 - d) (v4 - v3)

All pixels of a row take the same differences of neighbours; where these are 0, nothing is rounded. It is computed in
float32 here and in float64 there, so that of 10,000 values about one is off by one. Along y the same is done with
columns.
"""

# H, W height and width of the picture, C its channels; lines are rows for axis 1, columns for axis 0

from __future__ import annotations

import itertools

import numpy as np
import torch


def moved(pixels: np.ndarray, shifts: np.ndarray, fill: np.ndarray, axis: int) -> np.ndarray:
    """A picture whose rows or columns are read so much further right or down.

    Args:
        pixels: uint8 (H, W, C).
        shifts: float64 (lines,), in pixels.
        fill: uint8 (C,), the colour of what lies outside the picture.
        axis: 0 for columns, 1 for rows.

    Returns:
        uint8 (H, W, C).
    """
    length = pixels.shape[axis]
    # a pixel is inside where its middle is read from inside the picture
    firsts = np.ceil(-0.5 - shifts).clip(0, length).astype(np.int32)
    ends = np.ceil(length - 0.5 - shifts).clip(0, length).astype(np.int32)
    first, end = int(firsts.min()), int(ends.max())
    result = np.empty_like(pixels)
    if first >= end:
        result[:] = fill
        return result
    whole = np.floor(shifts)
    # of a line without a pixel inside anything will do
    begins = (whole + first).clip(-length - 1, length + 1).astype(np.int64)
    taps = neighbours(pixels, begins, end - first, axis)
    along(result, axis)[:, first:end] = along(filtered(taps, shifts - whole, axis), axis)
    paint_outside(result, firsts, ends, fill, axis)
    return result


def along(pixels: np.ndarray, axis: int) -> np.ndarray:
    """Pixels (H, W, C) with their lines in front: as they are, or (W, H, C)."""
    return pixels if axis == 1 else pixels.transpose(1, 0, 2)


def neighbours(pixels: np.ndarray, begins: np.ndarray, count: int, axis: int) -> np.ndarray:
    """The pixels of each line that `count` filtered ones depend on; beyond the border, those of the border.

    Args:
        pixels: uint8 (H, W, C).
        begins: int64 (lines,): the second neighbour of each line's first filtered pixel.
        count: filtered pixels a line.
        axis: 0 for columns, 1 for rows.

    Returns:
        float32 (count + 3, W, C) or (H, count + 3, C).
    """
    length = pixels.shape[axis]
    before = max(0, 1 - int(begins.min()))
    after = max(0, int(begins.max()) + count + 2 - length)
    sides = list(pixels.shape)
    sides[axis] = before + length + after
    padded = np.empty(sides, dtype=np.uint8)
    sides[axis] = count + 3
    taps = np.empty(sides, dtype=np.float32)
    source, wide, found = (along(each, axis) for each in (pixels, padded, taps))
    wide[:, before : before + length] = source
    wide[:, :before], wide[:, before + length :] = source[:, :1], source[:, -1:]
    # neighbouring lines that begin alike are copied at once
    cuts = [0, *(np.flatnonzero(np.diff(begins)) + 1).tolist(), len(begins)]
    for top, bottom in itertools.pairwise(cuts):
        start = int(begins[top]) - 1 + before
        found[top:bottom] = wide[top:bottom, start : start + count + 3]
    return taps


def filtered(taps: np.ndarray, parts: np.ndarray, axis: int) -> np.ndarray:
    """Filters neighbours by the equation above.

    Args:
        taps: float32 (count + 3, W, C) or (H, count + 3, C).
        parts: float64 (lines,), the d of each.
        axis: 0 for columns, 1 for rows.

    Returns:
        uint8 (count, W, C) or (H, count, C).
    """
    height, width, channels = taps.shape
    values = torch.from_numpy(taps).view(height, -1)
    # values that are neighbours, and how many pixels there are
    step, count = (channels, (width - 3) * channels) if axis == 1 else (1, height - 3)
    d = np.repeat(parts, channels)[None] if axis == 0 else parts[:, None]

    def of(each: torch.Tensor, number: int) -> torch.Tensor:
        return each.narrow(axis, number * step, count)

    between = values.narrow(axis, step, count + 2 * step) - values.narrow(axis, 0, count + 2 * step)
    # the values are no longer needed, and the sum takes their place
    total = of(values, 1)
    for number, weight in enumerate((d * (1 - d) ** 2, d, d * d * (d - 1))):
        total.addcmul_(of(between, number), torch.from_numpy(weight.astype(np.float32)))
    # a fraction is cut off
    done = total.clamp_(0, 255).numpy().astype(np.uint8)
    return done.reshape((height - 3, width, channels) if axis == 0 else (height, width - 3, channels))


def paint_outside(pixels: np.ndarray, firsts: np.ndarray, ends: np.ndarray, fill: np.ndarray, axis: int) -> None:
    """Paints what each line has before its first pixel and from its end on.

    Args:
        pixels: uint8 (H, W, C), painted.
        firsts, ends: int32 (lines,).
        fill: uint8 (C,).
        axis: 0 for columns, 1 for rows.
    """
    height, width, channels = pixels.shape
    flat, colour = pixels.reshape(height, -1), np.tile(fill, width)[None]  # (H, W * C), (1, W * C)
    places = np.arange(flat.shape[axis], dtype=np.int32)
    if axis == 1:
        places, firsts, ends = places[None], (firsts * channels)[:, None], (ends * channels)[:, None]
    else:
        places, firsts, ends = places[:, None], np.repeat(firsts, channels)[None], np.repeat(ends, channels)[None]
    for bound, comes_before in ((firsts, True), (ends, False)):
        least, most = int(bound.min()), int(bound.max())
        # what is outside on every line, and what is on some
        sure, asked = slice(0, least) if comes_before else slice(most, None), slice(least, most)
        if axis == 1:
            flat[:, sure] = colour[:, sure]
            outside = places[:, asked] < bound if comes_before else places[:, asked] >= bound
            np.copyto(flat[:, asked], colour[:, asked], where=outside)
        else:
            flat[sure] = colour
            outside = places[asked] < bound if comes_before else places[asked] >= bound
            np.copyto(flat[asked], colour, where=outside)
