"""Makes small images with label maps: real JPEG and PNG files in ADE20K's form, a colour for each class.

The label map says of each pixel what its colour says, so a test can tell whether both were moved alike.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# of the classes 0, 1, 2, 3
COLOURS = np.array([[230, 30, 30], [30, 220, 30], [30, 60, 240], [240, 240, 40]], dtype=np.uint8)
CLASSES = len(COLOURS)


def blocks(seed: int, height: int = 48, width: int = 64, side: int = 16) -> np.ndarray:
    """Classes (height, width) in squares."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, CLASSES, (-(-height // side), -(-width // side)))
    return np.kron(grid, np.ones((side, side), dtype=np.int64))[:height, :width].astype(np.uint8)


def classes_of(pixels: np.ndarray) -> np.ndarray:
    """The class whose colour is the nearest, for RGB pixels (..., 3) of 0 to 255."""
    distance = np.abs(pixels[..., None, :].astype(float) - COLOURS.astype(float)).sum(-1)
    return distance.argmin(-1)


def write_image(file: Path, classes: np.ndarray) -> Path:
    """Writes the picture of classes (height, width)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # for JPEG: colours that do not run over the borders
    Image.fromarray(COLOURS[classes]).save(file, quality=95, subsampling=0)
    return file


def write_labels(file: Path, values: np.ndarray) -> Path:
    """Writes the values of a label map, uint8 or uint16."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)
    return file


def make_pairs(root: Path, training: int = 6, validation: int = 3, *, ignore_zero: bool = True) -> Path:
    """Writes images/ and annotations/ with the splits training and validation, of several sizes, and returns root."""
    for split, count in (("training", training), ("validation", validation)):
        for number in range(count):
            seed = number + 100 * (split == "validation")
            classes = blocks(seed, height=40 + 7 * (number % 3), width=64 - 9 * (number % 2))
            write_image(root / "images" / split / f"{split}_{number:03d}.jpg", classes)
            values = classes + np.uint8(ignore_zero)
            write_labels(root / "annotations" / split / f"{split}_{number:03d}.png", values)
    return root


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG file of 1, 2, 4, 8 or 16 bits a value, which Pillow itself does not write."""
    height, width = values.shape
    unpacked = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1  # (height, width, bits)
    rows = np.packbits(unpacked.reshape(height, width * bits).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
