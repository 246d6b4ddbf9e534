"""How many images a second come out of JPEG files, decoded and augmented: of all reading processes, and of a core."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from acmix import config
from acmix.benchmark.machine import check_img_size, check_seconds
from acmix.benchmark.record import counted, measured_with, rounded, write_table
from acmix.errors import UsageError

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

# the usual size of ImageNet's photographs
WIDTH, HEIGHT = 500, 375
CLASSES = 4
# how long a command measures by default
SECONDS = 15.0
# images a second that a card takes, unless its user knows
CARD = 1000.0
COLUMNS = (
    *("date", "commit", "machine", "torch", "timm", "file_size", "img_size", "draft", "what", "peer", "rounds"),
    *("speed_up", "speed_up_low", "speed_up_high", "images_per_second", "peer_images_per_second", "time_ms", "share"),
)


def benchmark_data(
    *,
    images: int = 256,
    batch_size: int = 32,
    img_size: int = 224,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    workers: int | None = None,
    draft: bool = False,
    against: Sequence[str] = (),
    card: float = CARD,
    seconds: float = SECONDS,
    csv: Path | None = None,
    say: Callable[[str], object] = print,
) -> float:
    """Writes real JPEG files and reads them through the training loader, with the default recipe's augmentation.

    Then one core reads them, stage by stage, and beside timm's loaders if asked.

    Args:
        images: files; they are read again and again, from memory after the first time. Where time is short fewer are
            written, two batches at least.
        batch_size: images a batch, even for mixup.
        img_size: side of the crops in pixels.
        size: width and height of the files in pixels.
        workers: reading processes; as in training by default.
        draft: `data.draft`.
        against: "timm" pairs the core with both of timm's loaders.
        card: images a second that a card takes.
        seconds: how long in all; at least two batches are read, and the second one is timed.
        csv: a file that the figures of the core are written into.
        say: prints a line.

    Returns:
        Images a second of all reading processes.

    Raises:
        UsageError: a batch larger than the number of images, or odd; another peer; a rate that is not above 0.
    """
    from acmix.benchmark.budget import Budget

    check_seconds(seconds)
    check_img_size(img_size)
    check_peers(against)
    if not 0 < card < math.inf:
        raise UsageError(f"--card {card:g}; expected images a second, above 0")
    if images < 2 * batch_size:
        raise UsageError(f"{images} images and a batch of {batch_size}; expected at least two batches")
    with tempfile.TemporaryDirectory(prefix="acmix_benchmark_") as folder, Budget(seconds) as budget:
        write_photographs(Path(folder), images, size=size, least=2 * batch_size, budget=budget)
        tree = {
            "model": {"num_classes": CLASSES},
            "data": {"dir": folder, "img_size": img_size, "workers": workers, "draft": draft},
            "train": {"batch_size": batch_size},
        }
        settings = config.validate(tree, where="benchmark")
        budget.plan(2 + 2 * len({*against}), seconds)
        share = budget.share()
        read, took = read_until(train_loader_of(settings), budget, budget.left - share)
        processes = counted(worker_count_of(settings), "reading process", "es")
        batches = counted(read // batch_size, "batch", "es")
        say(
            f"{read / took:.1f} images/s: JPEG of {size[0]}x{size[1]} to {img_size} px, the recipe's augmentation, "
            f"{processes}, {batches} of {batch_size} images in {took:.1f} s"
        )
        rows = core_rows(settings, share, budget, card=card, against=against, say=say)
    if csv is not None:
        write_table(csv, COLUMNS, told_of(rows, settings, size))
    return read / took


def file_size_of(text: str) -> tuple[int, int]:
    """Width and height of the files, such as "500x375".

    Raises:
        UsageError: no two whole numbers from 16 to 8192.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(each.isdecimal() and 16 <= int(each) <= 8192 for each in sides):
        raise UsageError(f"--file-size {text}; expected width and height from 16 to 8192 pixels, such as 500x375")
    return int(sides[0]), int(sides[1])


def check_peers(against: Sequence[str]) -> None:
    """Refuses what reading is not compared with."""
    for peer in against:
        if peer != "timm":
            raise UsageError(f"--against {peer}; reading is compared with timm alone: --against timm")


def core_rows(
    settings: config.Config,
    seconds: float,
    budget: Budget,
    *,
    card: float,
    against: Sequence[str],
    say: Callable[[str], object],
) -> list[dict[str, Any]]:
    """Measures what one core reads, says it, and gives rows of `COLUMNS`.

    Args:
        settings: what is read.
        seconds: for the stages, and for each pair.
        budget: told what is being done.
        card: images a second that a card takes.
        against: "timm", or nothing.
        say: prints a line.
    """
    from acmix.benchmark.reading import DEVICE, PEERS, STAGES, pair, stages

    budget.doing("reading stage by stage")
    times = stages(settings, seconds)
    whole = sum(times[each] for each in STAGES)
    rate = 1000 / whole
    shares = ", ".join(f"{stage} {times[stage] / whole:.0%}" for stage in STAGES)
    say(f"{rate:.1f} images/s a core, {whole:.2f} ms an image: {shares}")
    say(f"left to the device: to float32, normalise, erase; {times[DEVICE]:.2f} ms an image on this CPU")
    cores = math.ceil(card / rate)
    say(f"a card of {card:g} images/s needs {counted(cores, 'such core')} (--card sets its rate)")
    rows: list[dict[str, Any]] = [
        {"what": f"stage {stage}", "images_per_second": rate if stage in STAGES else None, "time_ms": times[stage]}
        | {"share": times[stage] / whole if stage in STAGES else None}
        for stage in (*STAGES, DEVICE)
    ]
    for peer in PEERS if against else ():
        budget.doing(f"reading beside {peer}")
        found = pair(settings, peer, seconds)
        say(
            f"speed-up over {peer}: {found.speed_up:.2f} (CPU time for an image, {peer} ÷ acmix; quartiles "
            f"{found.speed_up_low:.2f} to {found.speed_up_high:.2f}, {counted(found.rounds, 'round')}); images/s a "
            f"core {found.images_per_second:.1f} against {found.peer_images_per_second:.1f}"
        )
        rows.append({"what": "pair", **asdict(found)})
    return rows


def told_of(rows: Sequence[dict[str, Any]], settings: config.Config, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Rows with what they were measured on, complete rows of `COLUMNS`.

    Args:
        rows: from `core_rows`.
        settings: what was read.
        size: of the files.
    """
    import torch

    common = {
        **measured_with(torch.device("cpu")),
        "file_size": f"{size[0]}x{size[1]}",
        "img_size": settings.data.img_size,
        "draft": settings.data.draft,
    }
    return [{**common, **{key: rounded(value) for key, value in row.items()}} for row in rows]


def train_loader_of(settings: config.Config) -> Any:
    """What reads in training."""
    from acmix.data import train_loader

    return train_loader(settings)


def worker_count_of(settings: config.Config) -> int:
    """How many processes read."""
    from acmix.data.loader import worker_count

    return worker_count(settings)


def read_until(loader: Any, budget: Budget, left: float = 0.0) -> tuple[int, float]:
    """Reads until so many seconds are left; how many images after the first batch, and in how many seconds."""
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
            if budget.left <= left:
                return read, time.perf_counter() - began
        epoch += 1


def write_photographs(
    folder: Path,
    count: int,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    least: int = 0,
    budget: Budget | None = None,
) -> None:
    """Writes train/CLASS/NNNN.JPEG: soft shapes with grain, which compress as photographs do.

    Args:
        folder: made where it is missing.
        count: how many.
        size: width and height in pixels.
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
        soft = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (soft + draw.normal(0, 8, soft.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / f"class_{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04d}.JPEG", quality=90)
