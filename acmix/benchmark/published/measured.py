"""What `speed.py` measured, read back from its files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from acmix.benchmark.record import WRONG
from acmix.errors import UsageError

SWIN, RESNET = "acmix_swin_tiny_patch4_window7_224", "acmix_resnet50"
SHORT = {SWIN: "ACmix-Swin-T", RESNET: "ACmix-ResNet-50"}
PLAIN = {SWIN: "Swin-T", RESNET: "ResNet-50"}
STEP = {"infer": "inference", "train": "training step"}
# the size at which models are compared
FULL = {"shape": "224x224", "images": "8"}

Row = dict[str, str]


@dataclass(frozen=True)
class Found:
    """What was measured on one device.

    Args:
        rows: of `speed_cpu.csv`.
        groups: of `speed_cpu_groups.csv`.
        costs: of `acmix2d.csv`, which `acmix2d.py` writes.
        landscape, top1: of `landscape.csv`, which `landscape.py` writes, and of the accuracies beside it.
        picture: whether there is a `speed_cpu.png`.
        narrow: of `avx2/speed_cpu.csv`, measured with vectors of half the width.
    """

    rows: list[Row]
    groups: list[Row]
    costs: list[Row]
    landscape: list[Row]
    top1: list[Row]
    picture: bool
    narrow: list[Row] = field(default_factory=list)

    def one(self, **cells: str) -> Row | None:
        """The first row with these cells, or None."""
        return next(self.all(**cells), None)

    def all(self, **cells: str) -> Iterator[Row]:
        """Every row with these cells."""
        return (row for row in self.rows if all(row[key] == value for key, value in cells.items()))


def read(results: Path) -> Found:
    """What `speed.py` left in a folder; nothing where it has not run.

    Raises:
        UsageError: a file there that is not one of `speed.py`'s.
    """
    found = Found(
        rows=rows_of(results / "speed_cpu.csv"),
        groups=rows_of(results / "speed_cpu_groups.csv"),
        costs=rows_of(results / "acmix2d.csv"),
        landscape=rows_of(results / "landscape.csv"),
        top1=rows_of(results / "landscape_top1.csv"),
        picture=(results / "speed_cpu.png").is_file(),
        narrow=rows_of(results / "avx2" / "speed_cpu.csv"),
    )
    for name, rows, key in (("speed_cpu.csv", found.rows, "speed_up"), ("speed_cpu_groups.csv", found.groups, "share")):
        if rows and key not in rows[0]:
            raise UsageError(f"{results / name} has no column {key!r}; run benchmarks/speed.py, which writes it")
    return found


def measured_on(rows: Sequence[Row]) -> str:
    """On which machine rows were measured, with what, at which commits and when, as a sentence."""
    first = rows[0]
    commits = ", ".join(dict.fromkeys(f"`{row['commit'][:7]}`" for row in rows))
    days = " and ".join(sorted({row["date"].split()[0] for row in rows}))
    return f"{first['machine']}, torch {first['torch']}, timm {first['timm']}, commit {commits}, {days}."


def rows_of(path: Path) -> list[Row]:
    """A CSV's rows; none where it is missing."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def is_right(row: Row | None) -> TypeGuard[Row]:
    """Whether there is a speed."""
    return row is not None and row["speed_up"] != WRONG


def model_rows(found: Found) -> list[Row]:
    """One right row of our own unfolded model for each model, phase and format at full size."""
    rows = {}
    for row in found.all(candidate="acmix", **FULL):
        if row["subject"] in SHORT and is_right(row) and row["flops_share"]:
            rows.setdefault((row["subject"], row["phase"], row["dtype"]), row)
    return list(rows.values())


def floor_ms(row: Row) -> float:
    """The time at the ceiling: what was taken, times the share of the ceiling that was reached."""
    return float(row["time_ms"]) * float(row["flops_share"])
