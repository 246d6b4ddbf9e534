"""Measures what it brings that a process keeps the memory of its tensors: Swin-T and ResNet-50, ours and timm's.

python benchmarks/kept.py [--seconds S] [--batch-size B] [--results DIR]

The same model runs in turn with glibc's usual settings and with those of our commands, a run to settle after each
change. Writes benchmarks/results/memory_kept.csv; five minutes on two cores. A ratio is the usual time ÷ the kept one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from acmix import memory
from acmix.benchmark.contestants import contestants, peer_of
from acmix.benchmark.pairs import LEAST_ROUNDS, quartiles
from acmix.benchmark.record import measured_with, rounded, write_table
from acmix.benchmark.steps import Contestant, Setting, runner
from acmix.errors import UsageError

MODELS = ("acmix_swin_tiny_patch4_window7_224", "acmix_resnet50")
COLUMNS = ("date", "commit", "machine", "torch", "timm", "model", "form", "phase", "images", "rounds")
COLUMNS = (*COLUMNS, "usual_ms", "kept_ms", "speed_up", "speed_up_low", "speed_up_high")


def measure(run: Callable[[], object], seconds: float) -> dict[str, float | int | None]:
    """Times a run with both settings of malloc, in turn."""
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < LEAST_ROUNDS or time.perf_counter() - began < seconds:
        usual, kept = (timed(run, settings) for settings in (memory.keep_no_more, memory.keep))
        times.append((usual, kept))
    low, middle, high = quartiles([usual / kept for usual, kept in times])
    usual_ms, kept_ms = (1000 * quartiles([pair[side] for pair in times])[1] for side in (0, 1))
    figures = dict(usual_ms=usual_ms, kept_ms=kept_ms, speed_up=middle, speed_up_low=low, speed_up_high=high)
    return {"rounds": len(times), **{name: rounded(value) for name, value in figures.items()}}


def timed(run: Callable[[], object], settle: Callable[[], None]) -> float:
    """Seconds of the second run after a change."""
    settle()
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def sides(name: str, setting: Setting) -> list[tuple[str, Contestant]]:
    """Our model and timm's of the same name."""
    ours = contestants(name, setting)[0]
    theirs = peer_of(ours, name, "timm", setting)
    return [("acmix", ours), *([("timm", theirs)] if theirs else [])]


def main(root: Path) -> int:
    """Measures each model in both phases, and writes the table.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="the rounds of a row; five are done at least")
    parser.add_argument("--batch-size", type=int, default=8, help="images a step")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the file")
    told = parser.parse_args()
    if not memory.is_glibc() or memory.is_set_by_user():
        raise UsageError("there is nothing to compare: the C library is not glibc, or the environment sets its malloc")
    device, rows = torch.device("cpu"), []
    common = measured_with(device)
    for name in MODELS:
        for phase in ("infer", "train"):
            setting = Setting(phase, "fp32", told.batch_size, 224, device)
            for form, contestant in sides(name, setting):
                found = measure(runner(contestant, setting)[0], told.seconds)
                rows.append({**common, "model": name, "form": form, "phase": phase, "images": told.batch_size, **found})
                print(
                    f"{name} {phase}, {form}: {found['usual_ms']} ms usual, {found['kept_ms']} kept: "
                    f"{found['speed_up']} ({found['speed_up_low']} to {found['speed_up_high']}), "
                    f"{found['rounds']} rounds",
                    flush=True,
                )
    file = told.results / "memory_kept.csv"
    write_table(file, COLUMNS, rows)
    print(f"written: {file}")
    return 0
