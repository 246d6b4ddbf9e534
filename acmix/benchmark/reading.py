"""Images a second that one core reads for training: stage by stage, beside timm's loader, and the pixels of both.

Times are CPU seconds of this process with one thread, so that what else runs on the machine counts little.
"""

# B images of a batch, C channels, H, W sides

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.data.dataset import ImageDataset as TimmDataset
from timm.data.loader import create_loader

from acmix.benchmark.pairs import LEAST_ROUNDS, quartiles
from acmix.config import Config
from acmix.data import train_loader
from acmix.data.batch import collate
from acmix.data.dataset import ImageDataset, Row, seed_of, seeded
from acmix.data.image import normalisation
from acmix.data.operations import MENDED, use_operations
from acmix.data.training import TrainingTransform

Result = TypeVar("Result")
# what timm's training script calls its two loaders: normalised on the device, or by the reading process
PEERS = {"timm": True, "timm --no-prefetcher": False}
# the stages of a reading process, and what is left to the device
STAGES = ("decode", "crop, resize", "flip", "colours", "erase", "batch", "rest")
DEVICE = "device"
# equal parts of 0 to 255
BINS = 16


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets PyTorch use one thread, as a reading process does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Paired:
    """Our loader beside one of timm's.

    Args:
        peer: its name.
        rounds: batches that each side read.
        images_per_second, peer_images_per_second: of a core, medians.
        speed_up: median of the peer's time ÷ ours, round by round: above 1, ours is faster.
        speed_up_low, speed_up_high: its quartiles.
    """

    peer: str
    rounds: int
    images_per_second: float
    peer_images_per_second: float
    speed_up: float
    speed_up_low: float
    speed_up_high: float


def pair(settings: Config, peer: str, seconds: float) -> Paired:
    """Reads batches by our loader and by one of timm's in turn, from the same files in an order of each one's own.

    Args:
        settings: a folder of images, the sizes and the augmentation.
        peer: one of `PEERS`.
        seconds: how long; at least five rounds are done, after one that is not counted.
    """
    images = settings.train.batch_size
    sides = [endless_ours(settings), endless_timm(settings, prefetcher=PEERS[peer])]
    rounds: list[list[float]] = []
    with one_thread():
        for side in sides:
            next(side)
        until = time.perf_counter() + seconds
        while len(rounds) < LEAST_ROUNDS or time.perf_counter() < until:
            rounds.append([cpu_seconds(side) for side in sides])
    low, middle, high = quartiles([theirs / ours for ours, theirs in rounds])
    ours, theirs = (images / statistics.median(times) for times in zip(*rounds, strict=True))
    return Paired(peer, len(rounds), ours, theirs, middle, low, high)


def cpu_seconds(batches: Iterator[Any]) -> float:
    """CPU seconds that the next batch takes."""
    began = time.process_time()
    next(batches)
    return time.process_time() - began


def endless_ours(settings: Config) -> Iterator[Any]:
    """Batches of our training loader, read in this process."""
    data = settings.data.model_copy(update={"workers": 0})
    loader = train_loader(settings.model_copy(update={"data": data}))
    for epoch in count():
        yield from loader.epoch(epoch)


def endless_timm(settings: Config, *, prefetcher: bool) -> Iterator[Any]:
    """Batches of timm's training loader, read in this process, with the same augmentation."""
    loader = timm_loader(settings, prefetcher=prefetcher)
    while True:
        yield from loader


def timm_loader(settings: Config, *, prefetcher: bool) -> Any:
    """timm's loader as far as a reading process goes; posterizing to 0 bits, which Pillow 13 refuses, is ours."""
    data, augment = settings.data, settings.augment
    mean, std = normalisation(data, settings.model.in_chans)
    options: dict[str, Any] = {"color_jitter": augment.color_jitter, "scale": augment.scale, "mean": mean, "std": std}
    loader = create_loader(
        TimmDataset(str(Path(data.dir) / data.train_split)),
        input_size=(settings.model.in_chans, data.img_size, data.img_size),
        batch_size=settings.train.batch_size,
        is_training=True,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode=augment.random_erasing_mode,
        re_count=augment.random_erasing_count,
        interpolation=data.interpolation,
        num_workers=0,
        use_prefetcher=prefetcher,
        device=torch.device("cpu"),
        persistent_workers=False,
        **options,
    )
    # the part of it that a reading process runs
    inner: Any = getattr(loader, "loader", loader) if prefetcher else loader
    use_operations(inner.dataset.transform.transforms, MENDED)
    return inner


def stages(settings: Config, seconds: float) -> dict[str, float]:
    """Milliseconds of a core for an image, by stage; `DEVICE` is what is left to the device, here the CPU.

    Args:
        settings: a folder of images, the sizes and the augmentation.
        seconds: how long; at least one batch is read, after one that is not counted.
    """
    dataset: ImageDataset = train_loader(settings).dataset
    scale = normalisation(settings.data, settings.model.in_chans)
    totals: dict[str, float] = dict.fromkeys((*STAGES, DEVICE), 0.0)
    batch_size, batches = settings.train.batch_size, 0
    with one_thread():
        staged(dataset, scale, range(batch_size))
        until = time.perf_counter() + seconds
        while not batches or time.perf_counter() < until:
            rows = [(batches * batch_size + row) % len(dataset) for row in range(batch_size)]
            for name, took in staged(dataset, scale, rows).items():
                totals[name] += took
            batches += 1
    return {name: 1000 * total / (batches * batch_size) for name, total in totals.items()}


def staged(dataset: ImageDataset, scale: Any, rows: Sequence[int]) -> dict[str, float]:
    """CPU seconds of each stage for some rows of a dataset, one stage after the other."""
    transform: Any = dataset.transform
    assert isinstance(transform, TrainingTransform)
    took: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Result]) -> Result:
        began = time.process_time()
        found = work()
        took[stage] = time.process_time() - began
        return found

    with seeded(seed_of(*rows)):
        boxes = [transform.new_box() for _ in rows]
        pictures = timed("decode", lambda: [*map(dataset.pixels, rows, boxes)])
        cut = [(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
        images = timed("crop, resize", lambda: [transform.crop(picture, box.on(picture)) for picture, box in cut])
        images = timed("flip", lambda: [*map(transform.flipped, images)])
        images = timed("colours", lambda: [*map(transform.coloured, images)])
        erased = timed("erase", lambda: [*map(transform.erased, images)])
        read = [Row(image, 0, 1.0, -1, 0, each) for image, each in zip(images, erased, strict=True)]
        batch = timed("batch", lambda: collate(read, scale))
        timed(DEVICE, lambda: batch.to("cpu"))
    timed("rest", lambda: collate([dataset[row, seed_of(row)] for row in rows], scale))
    took["rest"] = max(0.0, took["rest"] - sum(took[each] for each in STAGES[:-1]))
    return took


@dataclass(frozen=True)
class Pixels:
    """What the values 0 to 255 of a channel are like, over the pixels of many images.

    Args:
        mean, deviation: of the values.
        histogram: share of the values in each of `BINS` equal parts.
    """

    mean: float
    deviation: float
    histogram: tuple[float, ...]


def pixels(settings: Config, number: int) -> tuple[list[Pixels], list[Pixels]]:
    """The channels of some pixels after the same draws: through our transform, and through timm's.

    Args:
        settings: a folder of images, the sizes and the augmentation; what is erased is left out.
        number: pixels, one of each image that is made.

    Returns:
        A list of C of each side, ours first.
    """
    ours: ImageDataset = train_loader(settings).dataset
    transform: Any = ours.transform
    theirs = timm_loader(settings, prefetcher=True).dataset.transform
    found: list[list[torch.Tensor]] = [[], []]
    for number_now in range(number):
        picture = ours.picture(number_now % len(ours))
        place = seed_of(number_now) % settings.data.img_size**2
        for side, change in zip(found, (transform, theirs), strict=True):
            with seeded(seed_of(number_now, 1)):
                done = change(picture)
            image = torch.as_tensor(getattr(done, "image", done))  # (C, H, W) uint8
            side.append(image.reshape(len(image), -1)[:, place])
    return described(torch.stack(found[0])), described(torch.stack(found[1]))


def described(values: torch.Tensor) -> list[Pixels]:
    """The channels of values, uint8 (n, C)."""
    channels = []
    for channel in values.float().unbind(1):
        shares = torch.histc(channel, BINS, 0, 256) / len(channel)
        channels.append(Pixels(float(channel.mean()), float(channel.std()), tuple(shares.tolist())))
    return channels


def resumed(settings: Config) -> tuple[int, int]:
    """Reads an epoch, and its second half by another loader as a run that goes on does.

    Returns:
        How many batches of the half are equal to the bit, and how many there are.
    """
    whole = [batch.to("cpu") for batch in train_loader(settings).epoch(1)]
    half = len(whole) // 2
    again = [batch.to("cpu") for batch in train_loader(settings).epoch(1, half)]
    equal = [torch.equal(one.images, other.images) for one, other in zip(whole[half:], again, strict=True)]
    return sum(equal), len(equal)
