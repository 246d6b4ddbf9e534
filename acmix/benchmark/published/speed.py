"""Measures this library's speed beside its peers, line by line, and writes down what it found.

python benchmarks/speed.py [--only LINE ...] [--seconds S]
python benchmarks/speed.py --tables

Writes `speed_cpu.csv` (a row a measurement), `speed_cpu_groups.csv` (where the time of a run goes) and
`speed_cpu.png` (the same, drawn) into benchmarks/results/; on a GPU the names say cuda. With --only, the rows of other
lines stay as they are. Ends with status 1 where a result is wrong: such a row has no speed. With --tables nothing is
measured: the tables of README.md and docs/ are made again from those files, and printed.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

import acmix
from acmix.benchmark import where
from acmix.benchmark.checks import truth_of_output
from acmix.benchmark.contestants import compare_networks, contestants, peer_of, profile
from acmix.benchmark.machine import Ceilings, default_device, measure_ceilings, why_slow
from acmix.benchmark.networks import PEERS, benchmark_networks
from acmix.benchmark.operators import benchmark_operators
from acmix.benchmark.pairs import Candidate, Measurement, Subject, compare
from acmix.benchmark.published import speed_tables
from acmix.benchmark.published.headline import CONVOLUTION
from acmix.benchmark.published.layer_costs import LAYERS
from acmix.benchmark.published.measured import RESNET, SWIN, read
from acmix.benchmark.record import lines, rows, write_rows
from acmix.benchmark.released_form import ReleasedACmix2d, released
from acmix.benchmark.steps import Contestant, Setting
from acmix.ops.dispatch import OPERATORS
from acmix.train.log import duration

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Plan:
    """How long and how large everything is measured.

    Args:
        seconds: the rounds of a pair of models; those of operators and layers take a tenth.
        batch_size: images.
        img_size: side of the images of models.
        device: where.
        ceilings: of this machine.
        results: folder of the files that are written.
    """

    seconds: float
    batch_size: int
    img_size: int
    device: torch.device
    ceilings: Ceilings
    results: Path

    @property
    def groups_file(self) -> Path:
        """Where the profile lies."""
        return self.results / f"speed_{self.device.type}_groups.csv"


def operators(name: str, plan: Plan) -> list[Measurement]:
    """An operator at every shape, forward and with backward."""
    return benchmark_operators(
        [name],
        batch_size=plan.batch_size,
        seconds=plan.seconds / 10,
        device=plan.device,
        ceilings=plan.ceilings,
    )


def models(name: str, phase: str, dtype: str, plan: Plan) -> list[Measurement]:
    """A model beside timm's plain one, ours, and the reference operators."""
    return benchmark_networks(
        [name],
        phase=phase,
        against=PEERS,
        dtypes=[dtype],
        batch_size=plan.batch_size,
        img_size=plan.img_size,
        seconds=plan.seconds,
        device=plan.device,
        ceilings=plan.ceilings,
    )


def compiled(plan: Plan) -> list[Measurement]:
    """ACmix-Swin-T folded, as it is and compiled, beside timm's Swin-T compiled; weights frozen."""
    setting = Setting("infer", "fp32", plan.batch_size, plan.img_size, plan.device)
    ours = contestants(SWIN, setting)
    peer = peer_of(ours[0], SWIN, "timm", setting)
    assert peer is not None
    sides = [ours[-1], replace(ours[-1], name=f"{ours[-1].name} compiled", compiled=True)]
    peers = [replace(peer, name="timm compiled", compiled=True)]
    return compare_networks(SWIN, sides, peers, setting, ceilings=plan.ceilings, seconds=plan.seconds)


def unfold(plan: Plan) -> list[Measurement]:
    """A training step of ACmix-ResNet-50 beside the released form of its layers."""
    setting = Setting("train", "fp32", plan.batch_size, plan.img_size, plan.device)
    ours = contestants(RESNET, setting)
    peer = Contestant("released form", released(ours[0].model))
    return compare_networks(RESNET, ours, [peer], setting, ceilings=plan.ceilings, seconds=plan.seconds)


def layer(plan: Plan) -> list[Measurement]:
    """ACmix2d at two sizes, one image, beside a 3×3 convolution; the first also beside its released form."""
    return [found for channels, side in LAYERS for found in one_layer(channels, side, plan)]


def one_layer(channels: int, side: int, plan: Plan) -> list[Measurement]:
    """An ACmix2d on a map of so many pixels a side."""
    torch.manual_seed(0)
    ours = acmix.ACmix2d(channels, channels).to(plan.device)
    x = torch.randn(1, channels, side, side, device=plan.device)
    modules: dict[str, nn.Module] = {CONVOLUTION: nn.Conv2d(channels, channels, 3, padding=1)}
    if (channels, side) == LAYERS[0]:
        modules["released form"] = ReleasedACmix2d(ours)
    truth = truth_of_output(ours, x)

    def candidate(name: str, module: nn.Module, judged: bool) -> Candidate:
        def run() -> torch.Tensor:
            with torch.no_grad():
                return module(x)

        return Candidate(name, run, lambda: truth.faults({"output": run()}) if judged else [])

    subject = Subject(f"ACmix2d({channels}, {channels})", f"{side}x{side}", "fp32", "infer", 1)
    found = []
    for name, module in modules.items():
        sides = candidate("acmix", ours, True), candidate(name, module.to(plan.device), False)
        measured = compare(subject, *sides, ceilings=plan.ceilings, device=plan.device, seconds=plan.seconds / 10)
        found.append(measured)
        print("\n".join(lines(measured)))
    return found


def time_in_groups(plan: Plan) -> list[Measurement]:
    """Where the time of a step and of an inference of ACmix-Swin-T goes, and of its peers; drawn, and in a CSV."""
    spent: dict[str, dict[str, float]] = {}
    for phase in ("infer", "train"):
        setting = Setting(phase, "fp32", plan.batch_size, plan.img_size, plan.device)
        ours = contestants(SWIN, setting)[0]
        peers = [peer for name in ("plain", "timm") if (peer := peer_of(ours, SWIN, name, setting))]
        spent |= {f"{each.name}, {phase}": profile(each, setting) for each in [ours, *peers]}
    print("\n".join(where.table(spent)))
    plan.results.mkdir(parents=True, exist_ok=True)
    with open(plan.groups_file, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "group", "time_ms", "share"])
        for name, groups in spent.items():
            for group, time_ms in groups.items():
                writer.writerow([name, group, f"{time_ms:.3f}", f"{where.share_of(groups, group):.4f}"])
    plot = plan.results / f"speed_{plan.device.type}.png"
    where.save_plot(spent, f"{SWIN}, {plan.batch_size} images, fp32", plot)
    print(f"drawn: {plot}")
    return []


LINES: dict[str, Callable[[Plan], list[Measurement]]] = {
    **{name: partial(operators, name) for name in OPERATORS},
    "layer": layer,
    **{
        f"{short}_{phase}_{dtype}": partial(models, name, phase, dtype)
        for short, name in (("swin", SWIN), ("resnet", RESNET))
        for phase in ("infer", "train")
        for dtype in DTYPES
    },
    "swin_infer_compiled": compiled,
    "resnet_unfold": unfold,
    "groups": time_in_groups,
}


def main(root: Path) -> int:
    """Measures what the command line asks for, or makes the tables; the exit status: 1 where a result is wrong.

    Args:
        root: of the repository.
    """
    told = arguments(root)
    if told.tables:
        write_tables(told.results, root)
        return 0
    device = default_device()
    ceilings = measure_ceilings(device, DTYPES)
    chosen = told.only or without_slow(ceilings, device)
    plan = Plan(told.seconds, told.batch_size, told.img_size, device, ceilings, told.results)
    return 1 if measure(chosen, plan) else 0


def without_slow(ceilings: Ceilings, device: torch.device) -> list[str]:
    """Every line but those of a format in which this machine is slow; --only measures them nevertheless."""
    slow = {dtype: reason for dtype in DTYPES if (reason := why_slow(dtype, ceilings, device))}
    for dtype, reason in slow.items():
        print(f"the lines of {dtype} are left out: {reason}; --only names lines to measure nevertheless")
    return [line for line in LINES if line.rpartition("_")[2] not in slow]


def measure(chosen: list[str], plan: Plan) -> int:
    """Runs lines one after another, writes after each, and returns how many results were wrong."""
    file = plan.results / f"speed_{plan.device.type}.csv"
    print(f"ceilings here: {plan.ceilings}")
    began, wrong = time.monotonic(), 0
    for number, name in enumerate(chosen, 1):
        print(f"--- {name}, line {number} of {len(chosen)}", flush=True)
        measured = LINES[name](plan)
        wrong += sum(each.speed is None for each in measured)
        if measured:
            write_rows(rows(measured, line=name, device=plan.device), file, replace_lines=[name])
        taken = time.monotonic() - began
        left = taken / number * (len(chosen) - number)
        print(f"    {duration(taken)} passed, about {duration(left)} left", flush=True)
    print(f"written: {file}")
    return wrong


def write_tables(results: Path, root: Path) -> None:
    """Makes the tables of the documents again from what was measured, and prints them."""
    found = read(results)
    for name, make in speed_tables.TABLES.items():
        print("\n".join([f"--- {name}", *(make(found) or [speed_tables.NOTHING])]))
    changed = speed_tables.rewrite(found, root)
    print("\n".join(f"written: {page}" for page in changed) or "the documents have these tables already")


def arguments(root: Path) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LINES, metavar="LINE", help=", ".join(LINES))
    parser.add_argument("--seconds", type=float, default=10.0, help="a pair of models; operators take a tenth")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--img-size", type=int, default=224, help="of models")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the files")
    parser.add_argument("--tables", action="store_true", help="measure nothing; write and print the documents' tables")
    return parser.parse_args()
