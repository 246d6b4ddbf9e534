"""Measures ACmix-Swin-T beside models that one would take instead, all without trained weights.

python benchmarks/landscape.py [--seconds S] [--batch-size B] [--only MODEL ...]

Inference and a training step of the published recipe in fp32; each model runs in turn with ACmix-Swin-T, A B A B.
Writes benchmarks/results/landscape.csv, a row a pair; with --only, the rows of other models stay. Published accuracies
are in landscape_top1.csv, with their sources. `python benchmarks/speed.py --tables` makes the table. Ends with status 1
where a result of ours is wrong.
"""

from __future__ import annotations

import argparse
import statistics
from functools import cache
from pathlib import Path

import torch

import acmix
from acmix.benchmark.budget import Budget
from acmix.benchmark.contestants import compare_networks, contestants
from acmix.benchmark.machine import Ceilings, default_device, measured_ceilings
from acmix.benchmark.pairs import LEAST_ROUNDS
from acmix.benchmark.published.cells import ratio_of, table, three
from acmix.benchmark.published.measured import SWIN, Found, Row, is_right, measured_on
from acmix.benchmark.record import rows, write_rows
from acmix.benchmark.steps import Contestant, Setting, build
from acmix.models.count import Cost, cost_of

# timm's, all of about 30 million parameters
PEERS = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "coatnet_0_rw_224",
    "maxvit_tiny_tf_224",
)
# what is measured, and for which share of the time
PHASES = {"infer": 0.25, "train": 0.75}
IMG_SIZE = 224
SECONDS = 330.0


def measure(setting: Setting, peers: list[str], ceilings: Ceilings, budget: Budget, file: Path) -> int:
    """Measures ACmix-Swin-T beside each peer in one phase, and writes; how many results are wrong."""
    budget.doing("building")
    ours, theirs = contestants(SWIN, setting)[:1], [Contestant(peer, build(peer, setting)) for peer in peers]
    found = compare_networks(SWIN, ours, theirs, setting, ceilings=ceilings, seconds=0.0, budget=budget)
    made = [{**row, "line": f"{row['peer']} {setting.phase}"} for row in rows(found, line="", device=setting.device)]
    write_rows(made, file, replace_lines=[row["line"] for row in made])
    for remark in budget.remarks(LEAST_ROUNDS):
        print(f"{setting.phase}: {remark}")
    return sum(each.speed is None for each in found)


def landscape(found: Found) -> list[str]:
    """Every model with its accuracy, size and speed, ACmix's first, and the speed-up of ACmix over it."""
    pairs = {(row["peer"], row["phase"]): row for row in found.landscape}
    peers = [peer for peer in PEERS if all(is_right(pairs.get((peer, phase))) for phase in PHASES)]
    if not peers:
        return []
    known = [pairs[peer, phase] for peer in peers for phase in PHASES]
    own = [[float(pairs[peer, phase]["images_per_second"]) for peer in peers] for phase in PHASES]
    body = [line_of(SWIN, found, [statistics.median(each) for each in own], ["1", "1"])]
    for peer in peers:
        of_peer = [pairs[peer, phase] for phase in PHASES]
        speeds = [1000 * int(row["images"]) / float(row["peer_time_ms"]) for row in of_peer]
        body.append(line_of(peer, found, speeds, [ratio_of(row) for row in of_peer]))
    names = (
        "model", "top-1", "parameters", "gmacs", "images/s, inference", "images/s, training",
        "speed-up of ACmix over it, inference", "training",
    )  # fmt: skip
    sources = "; ".join(dict.fromkeys(row["source"] for row in found.top1 if row["model"] in (SWIN, *peers)))
    batch = f"{known[0]['images']} images of {IMG_SIZE} px in {known[0]['dtype']}."
    return [*table(names, body), "", f"{batch} {measured_on(known)}", "", f"Top-1 on ImageNet-1k: {sources}."]


def line_of(name: str, found: Found, speeds: list[float], speed_ups: list[str]) -> tuple[str, ...]:
    """A model's line."""
    counted = counted_once(name)
    top1 = next((row for row in found.top1 if row["model"] == name), None)
    # from three digits to two, as the tables of models.csv have it
    size = f"{counted.parameters / 1e6:.1f} M", f"{float(f'{counted.gmacs:.3f}'):.2f}"
    return f"`{name}`", accuracy_of(top1), *size, *[three(speed) for speed in speeds], *speed_ups


def accuracy_of(row: Row | None) -> str:
    """A published accuracy, and the size of its images where that is another than what is measured."""
    if row is None:
        return "–"
    return f"{float(row['top1']):.1f} %" + f" at {row['img_size']} px" * (row["img_size"] != str(IMG_SIZE))


@cache
def counted_once(name: str) -> Cost:
    """Parameters and multiply-adds of a model of ours or timm's."""
    with torch.device("meta"):
        model = acmix.create_model(name)
    return cost_of(model, IMG_SIZE)


def main(root: Path) -> int:
    """Measures what the command line asks for; the exit status: 1 where a result is wrong.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="MODEL", help=", ".join(PEERS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="bound on the whole (default: %(default)g)")
    parser.add_argument("--batch-size", type=int, default=8, help="images (default: %(default)s)")
    parser.add_argument("--img-size", type=int, default=IMG_SIZE, help="side of the images (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the file")
    told = parser.parse_args()
    device, file = default_device(), told.results / "landscape.csv"
    ceilings, wrong = measured_ceilings(device, ["fp32"], print), 0
    for phase, share in PHASES.items():
        setting = Setting(phase, "fp32", told.batch_size, told.img_size, device)
        with Budget(share * told.seconds, units=len(told.only)) as budget:
            wrong += measure(setting, told.only, ceilings, budget, file)
    print(f"written: {file}")
    return 1 if wrong else 0
