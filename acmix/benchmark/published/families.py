"""Measures every ACmix model beside its plain form: the same network without the convolution path.

python benchmarks/family_speed.py [--only MODEL ...] [--seconds S] [--batch-size B]
python benchmarks/family_speed.py --table      puts what was measured into docs/performance.md

Pairs are run in turn, A B A B, after both sides were found right; a wrong one gets no speed. Writes
benchmarks/results/family_speed_cpu.csv (cuda on a GPU), a row for training and one for inference of each model; with
--only, the rows of the others stay. Ends with status 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import acmix
from acmix.benchmark.contestants import compare_networks, contestants, peer_of
from acmix.benchmark.machine import Ceilings, default_device, measure_ceilings
from acmix.benchmark.published.cells import put_between
from acmix.benchmark.published.measured import Row, rows_of
from acmix.benchmark.record import rows, write_rows
from acmix.benchmark.steps import Setting
from acmix.tools.paper import in_order
from acmix.train.log import duration

PAGE = "docs/performance.md"
START, END = "<!-- families: python benchmarks/family_speed.py --table -->", "<!-- end of families -->"


def measure(name: str, batch_size: int, seconds: float, device: torch.device, ceilings: Ceilings, file: Path) -> int:
    """Measures one model in both phases and writes its rows; returns how many results are wrong."""
    size = 384 if name.endswith("_384") else 224
    wrong = 0
    for phase in ("train", "infer"):
        setting = Setting(phase, "fp32", batch_size, size, device)
        ours = contestants(name, setting)[0]
        peer = peer_of(ours, name, "plain", setting)
        assert peer is not None
        measured = compare_networks(name, [ours], [peer], setting, ceilings=ceilings, seconds=seconds)
        write_rows(rows(measured, line=f"{name} {phase}", device=device), file, replace_lines=[f"{name} {phase}"])
        wrong += sum(each.speed is None for each in measured)
    return wrong


def table(found: list[Row]) -> str:
    """The measured speed-ups for a document, a line a model."""
    lines = [
        "| model | speed-up, training | speed-up, inference | training, ms | inference, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in in_order({row["subject"] for row in found}):
        of_model = {row["phase"]: row for row in found if row["subject"] == name}
        both = [of_model.get(phase) for phase in ("train", "infer")]
        ratios = [
            f"{float(row['speed_up']):.2f} ({float(row['speed_up_low']):.2f} – {float(row['speed_up_high']):.2f})"
            if row
            else ""
            for row in both
        ]
        times = [f"{float(row['time_ms']):.0f} / {float(row['peer_time_ms']):.0f}" if row else "" for row in both]
        lines.append(f"| `{name}` | {' | '.join(ratios + times)} |")
    first, commits = found[0], ", ".join(dict.fromkeys(row["commit"][:7] for row in found))
    return "\n".join([*lines, "", f"{first['machine']}, fp32, {first['images']} images a step, commits {commits}."])


def put_table(root: Path) -> None:
    """Puts the table between its marks on the page."""
    text = table(rows_of(root / "benchmarks" / "results" / "family_speed_cpu.csv"))
    put_between(root / PAGE, START, END, text)
    print(text)


def main(root: Path) -> int:
    """Measures one model after another; the exit status: 1 where a result is wrong.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=acmix.list_models(), default=acmix.list_models(), metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=3.0, help="the rounds of a pair; five are done at least")
    parser.add_argument("--batch-size", type=int, default=2, help="images a step")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the file")
    parser.add_argument("--table", action="store_true", help="measure nothing; put the table into docs/performance.md")
    told = parser.parse_args()
    if told.table:
        put_table(root)
        return 0
    device = default_device()
    ceilings = measure_ceilings(device, ("fp32",))
    file = told.results / f"family_speed_{device.type}.csv"
    began, wrong = time.monotonic(), 0
    for number, name in enumerate(told.only, 1):
        wrong += measure(name, told.batch_size, told.seconds, device, ceilings, file)
        taken = time.monotonic() - began
        left = taken / number * (len(told.only) - number)
        print(
            f"    {number} of {len(told.only)} models, {duration(taken)} passed, about {duration(left)} left",
            flush=True,
        )
    print(f"written: {file}")
    return 1 if wrong else 0
