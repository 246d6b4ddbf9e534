"""How far results differ where the same global batch is shared out among another number of processes.

python benchmarks/processes.py [--steps 1,10,40]

A small ACmix-Swin on real handwritten digits, 32 images a step, in 1, 2 and 4 processes of one thread each: a step is 4
micro-batches of 8 images, of which each process has 4, 2 or 1. Once as `train.reduction` is by default, with and
without what is drawn (drop path, mixup, cutmix), and once exact, with it. Each is compared with one process.

->  benchmarks/results/processes.csv
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from acmix.benchmark.record import write_table
from acmix.data.digits import write_digits
from acmix.errors import UsageError
from acmix.train.checkpoint import read
from acmix.train.device import device_name

COLUMNS = ("machine", "reduction", "draws", "steps", "processes", "largest_difference", "largest_weight", "val_loss")
PROCESSES = (1, 2, 4)
NOTHING_DRAWN = ("model.drop_path_rate=0", "augment.mixup=0", "augment.cutmix=0")
SETTINGS: dict[str, Any] = {
    "model": {
        "name": "acmix_swin_tiny_patch4_window7_224",
        "num_classes": 10,
        "drop_path_rate": 0.1,
        "args": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    },
    "data": {"img_size": 32, "workers": 0},
    "optimizer": {"lr": 1e-3, "base_batch_size": None},
    "train": {"epochs": 1, "batch_size": 8, "tensorboard": False},
}


def main(root: Path) -> int:
    """Reads the command line and measures; the exit status: 1 where exact is not exact.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="1,10,40", help="after which weights are compared (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "processes", help="of the runs; emptied first")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    shutil.rmtree(asked.folder, ignore_errors=True)
    images = write_digits(asked.folder / "images")
    rows = [*compare(asked.folder, images, [int(each) for each in asked.steps.split(",")])]
    write_table(asked.results / "processes.csv", COLUMNS, rows)
    return 1 if any(row["reduction"] == "exact" and row["largest_difference"] for row in rows) else 0


def compare(folder: Path, images: Path, steps: list[int]) -> Iterator[dict[str, Any]]:
    """Trains every case; a row each."""
    for reduction, draws in (("mean", False), ("mean", True), ("exact", True)):
        for number in steps:
            weights: dict[str, Any] = {}
            for processes in PROCESSES:
                output = folder / f"{reduction}_{draws}_{number}_{processes}"
                settings = (f"train.reduction={reduction}", *(() if draws else NOTHING_DRAWN), f"train.steps={number}")
                saved = trained(images, output, processes, settings)
                weights = weights or saved["model"]
                row = {
                    "machine": device_name(torch.device("cpu")),
                    "reduction": reduction,
                    "draws": "yes" if draws else "no",
                    "steps": number,
                    "processes": processes,
                    "largest_difference": difference(weights, saved["model"]),
                    "largest_weight": max(each.abs().max().item() for each in weights.values()),
                    "val_loss": saved["metrics"]["val_loss"],
                }
                print(" · ".join(f"{key} {row[key]}" for key in COLUMNS[1:]), flush=True)
                yield row


def trained(images: Path, output: Path, processes: int, settings: tuple[str, ...]) -> dict[str, Any]:
    """Trains in so many processes, and reads what last.pt holds."""
    config = output.with_suffix(".yaml")
    tree = {**SETTINGS, "train": {**SETTINGS["train"], "accumulation": PROCESSES[-1] // processes}}
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    environment = {**os.environ, "OUTPUT": str(output), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "acmix.train.launch", str(processes), str(config), str(images), *settings]
    end = subprocess.run(command, env=environment, capture_output=True, text=True)
    if end.returncode:
        raise UsageError(f"{' '.join(command[1:])} ended with status {end.returncode}: {end.stderr.strip()[-300:]}")
    return read(output / "checkpoints" / "last.pt")


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest of two models' weights."""
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)
