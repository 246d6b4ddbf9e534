"""Images a second that one core reads for training, beside timm's loaders; the pixels of both; a run that goes on.

python benchmarks/data.py [--seconds S] [--pixels N]

JPEG photographs of two sizes are written, and read in turn by our loader and by timm's two, with the recipe's
augmentation, whole and with data.draft; CPU seconds of one process with one thread. Then the channels of N pixels are
compared after the same draws, and the second half of an epoch is read again as a resumed run reads it: equal to the
bit, or exit status 1.

->  benchmarks/results/data.csv, data_pixels.csv, data.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from acmix import config
from acmix.benchmark.budget import Budget
from acmix.benchmark.loading import CLASSES, COLUMNS, core_rows, told_of, write_photographs
from acmix.benchmark.reading import BINS, DEVICE, Pixels, pixels, resumed
from acmix.benchmark.record import counted, measured_with, rounded, write_table

# width and height of the photographs, how many, and whether data.draft can make a difference to them
SIZES = (((500, 375), 256, False), ((1600, 1200), 64, True))
BATCH_SIZE, CARD = 32, 1000.0
PIXEL_COLUMNS = (
    *("date", "commit", "machine", "torch", "timm", "pixels", "channel", "side", "mean", "deviation"),
    *(f"share_{first}" for first in range(0, 256, 256 // BINS)),
)
CHANNELS = ("red", "green", "blue")


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where a resumed epoch differs.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=10_000, help="that are compared (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=root / "benchmarks" / "results" / "data.csv")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="acmix_data_") as place, Budget(3600, shown=False) as budget:
        for size, images, can_draft in SIZES:
            folder = Path(place) / str(size[0])
            write_photographs(folder, images, size=size)
            for draft in (False, True)[: 1 + can_draft]:
                settings = settings_of(folder, draft=draft)
                print(f"JPEG of {size[0]}x{size[1]}{', data.draft' if draft else ''}", flush=True)
                found = core_rows(settings, asked.seconds, budget, card=CARD, against=["timm"], say=told)
                rows += told_of(found, settings, size)
        settings = settings_of(Path(place) / str(SIZES[0][0][0]), draft=False)
        sides = pixels(settings, asked.pixels)
        equal, batches = resumed(settings)
    write_table(asked.output, COLUMNS, rows)
    described = pixel_rows(asked.pixels, *sides)
    for row in described:
        told(f"{row['channel']:<5} {row['side']:<5} mean {row['mean']:.2f}, deviation {row['deviation']:.2f}")
    write_table(asked.output.with_name("data_pixels.csv"), PIXEL_COLUMNS, described)
    draw(rows, asked.output.with_suffix(".png"))
    told(f"an epoch resumed in the middle: {equal} of {counted(batches, 'batch', 'es')} equal to the bit")
    print(f"written: {asked.output}")
    return 0 if equal == batches else 1


def told(line: str) -> None:
    """Prints a line under a heading."""
    print(f"  {line}", flush=True)


def settings_of(folder: Path, *, draft: bool) -> config.Config:
    """The recipe on a folder of photographs, read in this process."""
    tree = {
        "model": {"num_classes": CLASSES},
        "data": {"dir": str(folder), "workers": 0, "draft": draft},
        "train": {"batch_size": BATCH_SIZE},
    }
    return config.validate(tree, where="benchmark")


def pixel_rows(number: int, ours: list[Pixels], theirs: list[Pixels]) -> list[dict[str, Any]]:
    """What the channels of both sides are like, rows of `PIXEL_COLUMNS`."""
    common = measured_with(torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for channel, pair in zip(CHANNELS, zip(ours, theirs, strict=True), strict=True):
        for side, found in zip(("acmix", "timm"), pair, strict=True):
            shares = zip(PIXEL_COLUMNS[-BINS:], map(rounded, found.histogram), strict=True)
            figures = {"mean": rounded(found.mean), "deviation": rounded(found.deviation), **dict(shares)}
            rows.append({**common, "pixels": number, "channel": channel, "side": side, **figures})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the time of each stage for an image, a bar for each size of photographs, and timm's loaders beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys((row["file_size"], row["draft"]) for row in rows))
    names: list[str] = []
    for file_size, draft in kinds:
        mine = [row for row in rows if (row["file_size"], row["draft"]) == (file_size, draft)]
        left = 0.0
        stages = [row for row in mine if row.get("share") is not None]
        for number, row in enumerate(stages):
            label = None if names else row["what"].removeprefix("stage ")
            axes.barh(len(names), row["time_ms"], left=left, color=f"C{number}", label=label)
            left += row["time_ms"]
        names.append(f"acmix, {file_size}{', draft' if draft else ''}")
        for row in mine if not draft else ():
            if row["what"] == "pair":
                axes.barh(len(names), 1000 / row["peer_images_per_second"], color="0.7")
                names.append(f"{row['peer']}, {file_size}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms of a core for an image, without what is left to the {DEVICE}")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
