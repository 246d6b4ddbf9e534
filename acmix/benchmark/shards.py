"""Images a second from shards beside the same images from a folder, and that an epoch holds the same images.

python benchmarks/shards.py [--images N] [--seconds S]

JPEG photographs of the usual size are written once as a folder and once as shards, and read through the training loader
with the recipe's augmentation; one epoch of each in turn, by 1 and 2 processes with 0, 1 and 3 reading workers each.
Both lie in the page cache after the first time: what a slow disk or network adds is not measured.

->  benchmarks/results/shards.csv
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from acmix import config
from acmix.benchmark.loading import CLASSES, write_photographs
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.pairs import Candidate, Subject, compare
from acmix.benchmark.record import counted, lines, measured_with, rounded
from acmix.config import Data
from acmix.data import train_loader
from acmix.tools.shard import shard

PROCESSES, WORKERS = (1, 2), (0, 1, 3)
# images a step over all processes, and shards
GLOBAL_BATCH, SHARDS = 32, 16
COLUMNS = (
    *("date", "commit", "machine", "torch", "timm", "processes", "workers", "images", "lost", "doubled", "rounds"),
    *("speed_up", "speed_up_low", "speed_up_high", "images_per_second", "time_ms", "peer_time_ms"),
)
CPU = torch.device("cpu")


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where an image is lost or doubled.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="photographs, whole steps (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each pair's rounds last; at least five")
    parser.add_argument("--output", type=Path, default=root / "benchmarks" / "results" / "shards.csv")
    asked = parser.parse_args()
    images = max(GLOBAL_BATCH, asked.images // GLOBAL_BATCH * GLOBAL_BATCH)
    with tempfile.TemporaryDirectory(prefix="acmix_shards_") as place:
        folder, shards = Path(place) / "folder", Path(place) / "shards"
        write_photographs(folder, images)
        for line in shard(Data(dir=str(folder)), shards, samples=max(1, images // SHARDS), workers=0):
            print(line, flush=True)
        rows = [pair(folder, shards, images, n, workers, asked.seconds) for n in PROCESSES for workers in WORKERS]
    common = measured_with(CPU)
    with asked.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**common, **row} for row in rows)
    print(f"written: {asked.output}")
    return 1 if any(row["lost"] or row["doubled"] for row in rows) else 0


def pair(folder: Path, shards: Path, images: int, processes: int, workers: int, seconds: float) -> dict[str, Any]:
    """Reads epochs of both in turn; a row."""
    place = f"{counted(processes, 'process', 'es')}, {counted(workers, 'worker')} each"
    with Readers({"folder": folder, "shards": shards}, processes, workers) as readers:
        names = {side: readers.epoch(side) for side in ("folder", "shards")}
        lost = sum(len({*names["folder"]} - {*names[side]}) for side in names) + images - len({*names["folder"]})
        doubled = sum(len(each) - len({*each}) for each in names.values())
        measured = compare(
            Subject("an epoch", place, "fp32", "train", images),
            Candidate("shards", lambda: readers.epoch("shards"), lambda: []),
            Candidate("folder", lambda: readers.epoch("folder"), lambda: []),
            ceilings=Ceilings({}, math.inf),
            device=CPU,
            seconds=seconds,
        )
    print("\n".join(lines(measured)), flush=True)
    assert measured.speed is not None
    figures = {name: rounded(getattr(measured.speed, name)) for name in COLUMNS[COLUMNS.index("rounds") :]}
    return {
        "processes": processes, "workers": workers, "images": images, "lost": lost, "doubled": doubled, **figures,
    }  # fmt: skip


class Readers:
    """Training processes that read and do nothing else.

    Args:
        places: where the images lie, by name.
        processes: how many share an epoch.
        workers: reading workers of each.
    """

    def __init__(self, places: dict[str, Path], processes: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection] = []
        self.theirs: list[Connection] = []
        self.processes = []
        for rank in range(processes):
            ours, theirs = context.Pipe()
            body = (theirs, places, rank, processes, workers)
            self.processes.append(context.Process(target=read, args=body))
            self.ends.append(ours)
            self.theirs.append(theirs)

    def __enter__(self) -> Readers:
        for process in self.processes:
            process.start()
        for end in self.theirs:
            # theirs alone from now on: where such a process ends, nobody waits for it
            end.close()
        return self

    def __exit__(self, *raised: object) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.send("")
        for process in self.processes:
            process.join()

    def epoch(self, side: str) -> list[str]:
        """Reads an epoch of one side, and gives the names of its images."""
        try:
            for end in self.ends:
                end.send(side)
            return [name for end in self.ends for name in end.recv()]
        except (OSError, EOFError):
            raise RuntimeError("a reading process ended; what it said stands above") from None


def read(end: Connection, places: dict[str, Path], rank: int, processes: int, workers: int) -> None:
    """The body of a process: reads an epoch of what it is told, until it is told nothing."""
    torch.set_num_threads(1)
    loaders: dict[str, Any] = {}
    for side, place in places.items():
        tree = {
            "model": {"num_classes": CLASSES},
            "data": {"dir": str(place), "workers": workers},
            "train": {"batch_size": GLOBAL_BATCH // processes},
        }
        loaders[side] = train_loader(config.validate(tree, where="benchmark"), rank=rank, world_size=processes)
    names: dict[str, Callable[[int], str]] = {side: loader.dataset.name for side, loader in loaders.items()}
    epochs = dict.fromkeys(loaders, 0)
    while side := end.recv():
        found = [int(index) for batch in loaders[side].epoch(epochs[side]) for index in batch.index]
        epochs[side] += 1
        # below train/ in both
        end.send([names[side](index).replace(".tar:", "/").split("train")[-1].split("/", 1)[1] for index in found])
