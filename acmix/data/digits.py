"""Writes scikit-learn's 1,797 handwritten digits as an image folder: `python -m acmix.data.digits DIR`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from acmix.errors import UsageError
from acmix.extras import install

DIGITS = 1797
SIZE = 32


def write_digits(root: str | os.PathLike[str]) -> Path:
    """Writes 32x32 grey PNG files, train/<digit>/NNNN.png and val/<digit>/NNNN.png; a complete set is kept as it is.

    A fifth of every digit, by a fixed permutation, is held out as val. NNNN is the place in scikit-learn's set.

    Args:
        root: the folder to make.

    Returns:
        The folder.

    Raises:
        UsageError: scikit-learn is missing, the folder holds something else, or cannot be written.
    """
    root = Path(root)
    if is_complete(root):
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} holds other files than the complete digits; remove it or name another folder")
    pictures, labels = load_digits()
    held_out = choose_held_out(labels)
    # written beside its place and then renamed: what stands at root is always complete
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            folder = partial / ("val" if index in held_out else "train") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            enlarge(picture).save(folder / f"{index:04d}.png")
        os.replace(partial, root)
    except OSError as error:
        # another process may have been quicker
        if not is_complete(root):
            raise UsageError(f"cannot write the digits to {root}: {error.strerror}; name another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def is_complete(root: Path) -> bool:
    """Whether all the digits are there."""
    return len(list(root.glob("train/[0-9]/*.png"))) + len(list(root.glob("val/[0-9]/*.png"))) == DIGITS


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (1797, 8, 8) with values 0 to 16, and labels (1797,)."""
    try:
        from sklearn import datasets
    except ImportError:
        raise UsageError(f"the digits need scikit-learn; run {install('demo')}") from None
    digits = datasets.load_digits()
    return digits.images, digits.target  # pyright: ignore[reportAttributeAccessIssue]


def choose_held_out(labels: np.ndarray) -> set[int]:
    """A fifth of the indices of every digit."""
    # the legacy generator's permutations are frozen for good
    rng = np.random.RandomState(0)
    held_out: set[int] = set()
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        held_out.update(indices[: len(indices) // 5].tolist())
    return held_out


def enlarge(picture: np.ndarray) -> Image.Image:
    """8x8 values 0 to 16 as 32x32 grey values 0 to 255."""
    grey = (picture * (255 / 16)).round().astype(np.uint8)
    return Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise UsageError(f"{len(sys.argv) - 1} arguments where one was expected: python -m acmix.data.digits DIR")
        print(f"1,797 digits in {write_digits(sys.argv[1])}")
    except UsageError as error:
        print(f"acmix: error: {error}", file=sys.stderr)
        sys.exit(2)
