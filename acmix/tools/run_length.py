"""Masks as COCO's compressed run lengths: a line of text, about a thousandth of the pixels.

`acmix.data.masks` says what the text means, and reads it.
"""

# h, w height and width of the image

from __future__ import annotations

from typing import Any

import numpy as np


def mask_to_text(mask: np.ndarray[Any, Any]) -> str:
    """A mask (h, w), zero outside of its region, as run lengths in text."""
    pixels = np.asarray(mask).T.reshape(-1) != 0  # (w * h,), down the columns
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(pixels)]]))
    # the first run lies outside
    return runs_to_text(np.concatenate([[0], runs]) if pixels[0] else runs)


def runs_to_text(runs: np.ndarray[Any, Any]) -> str:
    """Run lengths (runs,) as text."""
    left = runs.astype(np.int64)
    left[3:] -= runs[1:-2]
    letters: list[np.ndarray[Any, Any]] = []
    is_open = np.ones(len(left), dtype=bool)
    while is_open.any():
        group = left & 31
        left >>= 5
        more = left != np.where(group & 16, -1, 0)
        # 0 is no letter
        letters.append(np.where(is_open, group + 32 * more + 48, 0))
        is_open &= more
    table = np.stack(letters, axis=1).reshape(-1)  # (runs * groups,)
    return table[table > 0].astype(np.uint8).tobytes().decode("ascii")
