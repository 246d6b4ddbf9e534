"""Which images of a set are held out for validation where the set has no validation split: `data.split`.

Every image has a number, a hash of `data.split_seed` and its path below the set's folder. Of the n images of a class,
the round(data.split · n) with the smallest numbers are held out: at least one of a class of two or more, never all.
A class of one image is trained on.

Counts are thus exact in every class, which small sets need: if every image tossed a coin of its own, a class of ten
could end up without any. And since the order is that of hashes, an image stays in its part in any order that files are
listed in, on every machine and in every process; a larger share holds out the same images and more; an image that is
added moves at most one other. A permutation of the list would deal all of them anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
from collections.abc import Sequence

import numpy as np

from acmix.errors import UsageError
from acmix.names import composed, shown


def held_out(paths: Sequence[bytes], targets: np.ndarray, share: float, seed: int, *, where: str) -> np.ndarray:
    """Chooses the validation images of a set.

    Args:
        paths: of the images, relative to the set's folder; a path that stands twice is held out twice or not at all.
        targets: the label of each.
        share: of a class, above 0 and below 1.
        seed: of the choice; nothing else that is random enters it.
        where: what lists the images, for messages.

    Returns:
        Whether each image is held out, in the order of `paths`.

    Raises:
        UsageError: an image stands under two labels, or no class has two images.
    """
    numbers = np.array([number(path, seed) for path in paths], dtype=np.uint64)
    held = np.zeros(len(numbers), dtype=bool)
    by_class = np.argsort(targets, kind="stable")
    starts = np.flatnonzero(np.diff(targets[by_class])) + 1
    label_of: dict[int, int] = {}
    for rows in np.split(by_class, starts):
        own = np.unique(numbers[rows])
        check_labels(label_of, own, int(targets[rows[0]]), paths, numbers, where)
        if count := to_hold_out(len(own), share):
            held[rows] = numbers[rows] <= own[count - 1]
    if not held.any():
        raise UsageError(
            f"data.split={share:g} holds nothing out: no class of {where} has two images; add images, or a validation "
            "split"
        )
    return held


def number(path: bytes, seed: int) -> int:
    """An image's number, below 2**64: the same on every system, however it writes é and the separator of folders."""
    name = posixpath.normpath(composed(os.fsdecode(path)).replace(os.sep, "/"))
    text = f"{seed}/{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def to_hold_out(images: int, share: float) -> int:
    """How many of a class's images are held out; half an image is rounded up."""
    return min(max(1, math.floor(share * images + 0.5)), images - 1)


def check_labels(
    label_of: dict[int, int], own: np.ndarray, label: int, paths: Sequence[bytes], numbers: np.ndarray, where: str
) -> None:
    """Refuses an image of two classes, which could be trained on in one and validated in the other."""
    for each in own.tolist():
        if (other := label_of.setdefault(each, label)) != label:
            path = shown(os.fsdecode(bytes(paths[int(np.flatnonzero(numbers == each)[0])])))
            raise UsageError(
                f"{where} has {path} under the labels {other} and {label}; data.split needs one label for each image"
            )
