"""Real small pictures to put into scenes: handwritten digits, and clothes (Fashion-MNIST)."""

# n pictures of a source, s their side in pixels

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from acmix.data.digits import choose_held_out, load_digits
from acmix.errors import UsageError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SOURCES = ("digits", "clothes", "both")
# where Debian's package dataset-fashion-mnist puts its files
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# grey values of an enlarged picture between which it changes from ground to object
DIGIT_EDGE, CLOTHES_EDGE = (0.25, 0.6), (0.02, 0.12)


@dataclass(frozen=True)
class Source:
    """One set of pictures: their grey values, classes, and which of them are held out for validation."""

    names: tuple[str, ...]
    # id of the first class; the others follow
    first_id: int
    # uint8 (n, s, s), 0 outside the object
    pictures: np.ndarray
    # (n,), 0 for the first name
    labels: np.ndarray
    # indices of pictures
    train: np.ndarray
    val: np.ndarray
    edge: tuple[float, float]

    def cut_out(self, index: int, width: int, height: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """A picture enlarged smoothly and turned.

        Args:
            index: which picture.
            width: pixels before it is turned.
            height: pixels before it is turned.
            angle: degrees, counterclockwise.

        Returns:
            alpha, float32 (h, w): 1 in the object, 0 outside; and shade, float32 (h, w): its brightness, 0 to 1.
        """
        grey = Image.fromarray(self.pictures[index]).resize((width, height), Image.Resampling.BICUBIC)
        shade = np.asarray(grey.rotate(angle, Image.Resampling.BICUBIC, expand=True), dtype=np.float32) / 255
        low, high = self.edge
        return np.clip((shade - low) / (high - low), 0, 1), shade


def open_sources(source: str, fashion_mnist: str | os.PathLike[str] = FASHION_MNIST) -> tuple[Source, ...]:
    """The sets of pictures that a name stands for.

    Args:
        source: "digits", "clothes" or "both".
        fashion_mnist: the folder of Fashion-MNIST's four files, as they are published.

    Raises:
        UsageError: the name is another, scikit-learn is missing, or Fashion-MNIST is.
    """
    if source not in SOURCES:
        raise UsageError(f"no pictures are called {source!r}; expected one of {', '.join(SOURCES)}")
    digits = (open_digits(),) if source != "clothes" else ()
    clothes = (open_clothes(Path(fashion_mnist)),) if source != "digits" else ()
    return digits + clothes


def open_digits() -> Source:
    """scikit-learn's 1,797 digits, 8x8; the fifth that the image folder of digits holds out is held out."""
    pictures, labels = load_digits()
    held_out = np.isin(np.arange(len(labels)), list(choose_held_out(labels)))
    grey = (pictures * (255 / 16)).round().astype(np.uint8)
    # an empty pixel around each, so that no stroke ends at the picture's edge
    grey = np.pad(grey, ((0, 0), (1, 1), (1, 1)))
    return Source(DIGITS, 1, grey, labels, np.flatnonzero(~held_out), np.flatnonzero(held_out), DIGIT_EDGE)


def open_clothes(folder: Path) -> Source:
    """Fashion-MNIST's 70,000 photographs of clothes, 28x28; its own 10,000 test images are held out."""
    parts = [
        (
            read_idx(folder / f"{part}-images-idx3-ubyte.gz", (n, 28, 28)),
            read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (n,)),
        )
        for part, n in (("train", 60_000), ("t10k", 10_000))
    ]
    pictures, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    if labels.max() >= len(CLOTHES):
        raise UsageError(
            f"{folder} has labels up to {labels.max()}; expected 0 to 9; install dataset-fashion-mnist anew"
        )
    grey = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
    return Source(CLOTHES, 11, grey, labels.astype(int), np.arange(60_000), np.arange(60_000, 70_000), CLOTHES_EDGE)


def read_idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of one of MNIST's files, compressed; uint8 of the shape that is expected."""
    # two zero bytes, 8 for unsigned bytes, the number of dimensions, and each as four bytes
    head = np.array([0x800 + len(shape), *shape], dtype=">u4").tobytes()
    size = len(head) + int(np.prod(shape))
    try:
        with gzip.open(file) as stream:
            # one more byte shows a longer file
            content = stream.read(size + 1)
    except FileNotFoundError:
        raise UsageError(
            f"clothes need Fashion-MNIST, and there is no {file}; install Debian's package dataset-fashion-mnist, "
            "name the folder of its four files, or take the digits"
        ) from None
    except (OSError, EOFError) as error:
        raise UsageError(f"cannot read {file}: {error}; install dataset-fashion-mnist anew") from None
    if len(content) != size or not content.startswith(head):
        raise UsageError(f"{file} is not Fashion-MNIST's, of the shape {shape}; install dataset-fashion-mnist anew")
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape)
