"""How many images a second come out of JPEG files, decoded and augmented."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from acmix import config
from acmix.benchmark.machine import check_img_size, check_seconds
from acmix.errors import UsageError

# the usual size of ImageNet's photographs
WIDTH, HEIGHT = 500, 375
CLASSES = 4


def benchmark_data(
    *,
    images: int = 256,
    batch_size: int = 32,
    img_size: int = 224,
    workers: int | None = None,
    seconds: float = 10.0,
    say: Callable[[str], object] = print,
) -> float:
    """Writes real JPEG files and reads them through the training loader, with the default recipe's augmentation.

    Args:
        images: files; they are read again and again, from memory after the first time.
        batch_size: images a batch, even for mixup.
        img_size: side of the crops in pixels.
        workers: reading processes; as in training by default.
        seconds: how long, after the first batch; at least one more batch is read.
        say: prints a line.

    Returns:
        Images a second.

    Raises:
        UsageError: a batch larger than the number of images, or odd.
    """
    from acmix.data import train_loader
    from acmix.data.loader import worker_count

    check_seconds(seconds)
    check_img_size(img_size)
    if images < 2 * batch_size:
        raise UsageError(f"{images} images and a batch of {batch_size}; expected at least two batches")
    with tempfile.TemporaryDirectory(prefix="acmix_benchmark_") as folder:
        write_photographs(Path(folder), images)
        tree = {
            "model": {"num_classes": CLASSES},
            "data": {"dir": folder, "img_size": img_size, "workers": workers},
            "train": {"batch_size": batch_size},
        }
        settings = config.validate(tree, where="benchmark")
        loader = train_loader(settings)
        read, began, epoch = 0, None, 0
        while began is None or not read or time.perf_counter() - began < seconds:
            for batch in loader.epoch(epoch):
                if began is None:
                    # starting the reading processes is no part of their speed
                    began = time.perf_counter()
                    continue
                read += len(batch.images)
                if time.perf_counter() - began >= seconds:
                    break
            epoch += 1
        speed = read / (time.perf_counter() - began)
        count = worker_count(settings)
    say(
        f"{speed:.1f} images/s: JPEG of {WIDTH}x{HEIGHT} to {img_size} px, the recipe's augmentation, "
        f"{count} reading process{'es' if count != 1 else ''}"
    )
    return speed


def write_photographs(folder: Path, count: int) -> None:
    """Writes train/CLASS/NNNN.JPEG: soft shapes with grain, which compress as photographs do."""
    for number in range(count):
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (soft + draw.normal(0, 8, soft.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / f"class_{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04d}.JPEG", quality=90)
