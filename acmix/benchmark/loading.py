"""How many images a second come out of JPEG files, decoded and augmented."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from acmix import config
from acmix.benchmark.machine import check_img_size, check_seconds
from acmix.benchmark.record import counted
from acmix.errors import UsageError

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

# the usual size of ImageNet's photographs
WIDTH, HEIGHT = 500, 375
CLASSES = 4
# how long a command measures by default
SECONDS = 15.0


def benchmark_data(
    *,
    images: int = 256,
    batch_size: int = 32,
    img_size: int = 224,
    workers: int | None = None,
    seconds: float = SECONDS,
    say: Callable[[str], object] = print,
) -> float:
    """Writes real JPEG files and reads them through the training loader, with the default recipe's augmentation.

    Args:
        images: files; they are read again and again, from memory after the first time. Where time is short fewer are
            written, two batches at least.
        batch_size: images a batch, even for mixup.
        img_size: side of the crops in pixels.
        workers: reading processes; as in training by default.
        seconds: how long in all; at least two batches are read, and the second one is timed.
        say: prints a line.

    Returns:
        Images a second.

    Raises:
        UsageError: a batch larger than the number of images, or odd.
    """
    from acmix.benchmark.budget import Budget

    check_seconds(seconds)
    check_img_size(img_size)
    if images < 2 * batch_size:
        raise UsageError(f"{images} images and a batch of {batch_size}; expected at least two batches")
    with tempfile.TemporaryDirectory(prefix="acmix_benchmark_") as folder, Budget(seconds) as budget:
        write_photographs(Path(folder), images, least=2 * batch_size, budget=budget)
        tree = {
            "model": {"num_classes": CLASSES},
            "data": {"dir": folder, "img_size": img_size, "workers": workers},
            "train": {"batch_size": batch_size},
        }
        settings = config.validate(tree, where="benchmark")
        read, took = read_until(train_loader_of(settings), budget)
    processes = counted(worker_count_of(settings), "reading process", "es")
    batches = counted(read // batch_size, "batch", "es")
    say(
        f"{read / took:.1f} images/s: JPEG of {WIDTH}x{HEIGHT} to {img_size} px, the recipe's augmentation, "
        f"{processes}, {batches} of {batch_size} images in {took:.1f} s"
    )
    return read / took


def train_loader_of(settings: config.Config) -> Any:
    """What reads in training."""
    from acmix.data import train_loader

    return train_loader(settings)


def worker_count_of(settings: config.Config) -> int:
    """How many processes read."""
    from acmix.data.loader import worker_count

    return worker_count(settings)


def read_until(loader: Any, budget: Budget) -> tuple[int, float]:
    """Reads until time is up; how many images after the first batch, and in how many seconds."""
    read, began, epoch = 0, 0.0, 0
    budget.doing("starting the reading processes")
    while True:
        for batch in loader.epoch(epoch):
            if not began:
                # starting the reading processes is no part of their speed
                began = time.perf_counter()
                continue
            read += len(batch.images)
            budget.doing("reading", f"{read} images")
            if not budget.left:
                return read, time.perf_counter() - began
        epoch += 1


def write_photographs(folder: Path, count: int, *, least: int = 0, budget: Budget | None = None) -> None:
    """Writes train/CLASS/NNNN.JPEG: soft shapes with grain, which compress as photographs do.

    Args:
        folder: made where it is missing.
        count: how many.
        least: how many at least where a budget is short, of which a third may pass.
        budget: of the whole.
    """
    for number in range(count):
        if budget is not None:
            budget.doing("writing photographs", f"{number} of {count}")
            if number >= least and budget.passed > budget.seconds / 3:
                return
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (soft + draw.normal(0, 8, soft.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / f"class_{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04d}.JPEG", quality=90)
