"""Makes small image folders of real JPEG files, whose classes one can tell apart by eye.

python -m tests.support.images DIR --classes 20 --train 10 --val 4 --size 96
"""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def make_image_folder(
    root: str | Path,
    classes: int = 20,
    train_per_class: int = 10,
    val_per_class: int = 4,
    size: int = 96,
    seed: int = 0,
) -> Path:
    """Writes root/train/class_NN/NNNN.JPEG and root/val/class_NN/NNNN.JPEG and returns root.

    A class is a hue, a direction of the gradient and one of four shapes; place, size and brightness vary.
    """
    root = Path(root)
    for part, count in enumerate((train_per_class, val_per_class)):
        for label in range(classes):
            folder = root / ("train", "val")[part] / f"class_{label:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                rng = np.random.default_rng([seed, part, label, number])
                draw_image(label, classes, size, rng).save(folder / f"{number:04d}.JPEG", quality=90)
    return root


def lay_down(path: Path) -> None:
    """Turns a JPEG file's pixels on their side, and lets its EXIF say so."""
    exif = Image.Exif()
    # orientation 6: to be turned clockwise
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif)


def draw_image(label: int, classes: int, size: int, rng: np.random.Generator) -> Image.Image:
    """One picture of a class."""
    # a width and a height that differ, as photographs do
    width, height = size + int(rng.integers(0, size // 4 + 1)), size + int(rng.integers(0, size // 4 + 1))
    hue = (label / classes + rng.uniform(-0.2, 0.2) / classes) % 1.0
    near = np.array(colorsys.hsv_to_rgb(hue, 0.8, rng.uniform(0.8, 1.0)))
    far = np.array(colorsys.hsv_to_rgb(hue, 0.6, rng.uniform(0.3, 0.5)))
    angle = 2 * np.pi * label / classes
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = (x * np.cos(angle) + y * np.sin(angle) + 1.5) / 3  # (height, width)
    pixels = near * slope[..., None] + far * (1 - slope[..., None]) + rng.normal(0, 0.02, (height, width, 3))
    image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
    radius = size * rng.uniform(0.2, 0.3)
    cx, cy = rng.uniform(0.35, 0.65) * width, rng.uniform(0.35, 0.65) * height
    colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb((hue + 0.5) % 1.0, 0.9, 0.9))
    draw = ImageDraw.Draw(image)
    box = (cx - radius, cy - radius, cx + radius, cy + radius)
    if label % 4 == 0:
        draw.ellipse(box, fill=colour)
    elif label % 4 == 1:
        draw.rectangle(box, fill=colour)
    elif label % 4 == 2:
        draw.polygon([(cx, cy - radius), (cx - radius, cy + radius), (cx + radius, cy + radius)], fill=colour)
    else:
        draw.ellipse(box, outline=colour, width=max(2, size // 16))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--train", type=int, default=10, help="images a class")
    parser.add_argument("--val", type=int, default=4, help="images a class")
    parser.add_argument("--size", type=int, default=96, help="pixels of the shorter side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = make_image_folder(args.dir, args.classes, args.train, args.val, args.size, args.seed)
    print(f"{args.classes * (args.train + args.val)} images in {root}")


if __name__ == "__main__":
    main()
