"""The parts of `gpu`, each run in a process of its own.

python -m acmix.benchmark.gpu_parts PART --seconds S --results FOLDER --card NAME [--quick] [--device cpu]
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import acmix
from acmix import ops
from acmix.benchmark import where
from acmix.benchmark.machine import measure_ceilings
from acmix.benchmark.operators import benchmark_operators, shapes
from acmix.benchmark.pairs import Measurement
from acmix.benchmark.record import rows, write_rows
from acmix.ops.dispatch import OPERATORS
from acmix.testing.judge import errors_of

MODELS = {"swin": "acmix_swin_small_patch4_window7_224", "resnet": "acmix_resnet50"}
TINY_MODELS = {"swin": "acmix_swin_tiny_patch4_window7_224", "resnet": "acmix_resnet26"}
CORRECT_COLUMNS: tuple[str, ...] = ("operator", "dtype", "case", "tensor", "error", "reference_error", "bound", "right")


@dataclass(frozen=True)
class Plan:
    """What a part is told.

    Args:
        name: the part's.
        seconds: after which it starts nothing new.
        results, card: where files go, and what their names begin with.
        quick: fewer cases, shapes and models.
        device: "cuda"; "cpu" tries the script with tiny sizes.
    """

    name: str
    seconds: float
    results: Path
    card: str
    quick: bool
    device: torch.device

    @property
    def tiny(self) -> bool:
        """Whether this is a trial without a GPU."""
        return self.device.type == "cpu"

    def file(self, ending: str) -> Path:
        """A result file; the folder is made."""
        self.results.mkdir(parents=True, exist_ok=True)
        return self.results / f"gpu_{self.card}{ending}"


def correct(plan: Plan, operator: str, dtype: str) -> int:
    """Checks one operator's kernels in one format on the table of cases; how many cases are wrong."""
    # one choice of launch settings compiles quickest, and unwritten elements are NaN
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    table = OPERATORS[operator].parts["cases"].CASES
    # quick: spread over the table, so that whatever fits into the time is of every kind
    order = [case for start in range(4) for case in table[start::4]] if plan.quick else list(table)
    began, done, wrong, found = time.monotonic(), 0, 0, []
    for case in order:
        if time.monotonic() - began > plan.seconds:
            break
        measured = errors_of(case, "reference" if plan.tiny else "triton", getattr(torch, dtype), plan.device.type)
        bad = [str(error) for error in measured if not error.ours <= error.bound]
        if bad:
            print(f"WRONG {operator}, {dtype}, {case.name}: {'; '.join(bad)}", flush=True)
        done, wrong = done + 1, wrong + bool(bad)
        for each in measured:
            cells = (operator, dtype, case.name, each.tensor)
            figures = (f"{each.ours:.2e}", f"{each.reference:.2e}", f"{each.bound:.2e}", each.ours <= each.bound)
            found.append(dict(zip(CORRECT_COLUMNS, (*cells, *figures), strict=True)))
    write_correct(plan.file(f"_correct_{operator}_{dtype}.csv"), found)
    print(f"{operator}, {dtype}: {done} of {len(table)} cases checked, {wrong} wrong", flush=True)
    return wrong


def write_correct(path: Path, found: list[dict[str, Any]]) -> None:
    """Writes the errors of every tensor of every case."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CORRECT_COLUMNS)
        writer.writeheader()
        writer.writerows(found)


def operators(plan: Plan) -> int:
    """Operators at the networks' shapes beside the reference and PyTorch's own means; how many are wrong."""
    ceilings = measure_ceilings(plan.device, ("fp32", "bf16"))
    print(f"ceilings here: {ceilings}")
    units = [shape for name in OPERATORS for shape in shapes(name)[:: 4 if plan.quick else 1]]
    if plan.tiny:
        units = [shape for shape in units if shape.map_size[1] <= 14][:2]
    found: list[Measurement] = []
    for shape in within(plan, units):
        found += benchmark_operators(
            dtypes=("bf16",),
            batch_size=1 if plan.tiny else 128,
            seconds=0.2 if plan.quick else 1.0,
            at=[shape],
            device=plan.device,
            ceilings=ceilings,
        )
        save(plan, found)
    return count_wrong(found)


def models(plan: Plan, phase: str, short: str, *, compiled: bool = False) -> int:
    """A model beside timm's, ours without the path, and the reference operators; how many are wrong."""
    from acmix.benchmark.networks import benchmark_networks

    ceilings = measure_ceilings(plan.device, ("bf16",))
    phases = ("train", "infer") if phase == "compiled" else (phase,)
    against = ("timm",) if compiled and plan.quick else ("timm", "reference", "plain")
    units = [(each, peer) for each in phases for peer in against]
    found: list[Measurement] = []
    for each, peer in within(plan, units):
        found += benchmark_networks(
            [(TINY_MODELS if plan.tiny else MODELS)[short]],
            phase=each,
            against=(peer,),
            dtypes=("bf16",),
            batch_size=2 if plan.tiny else 128,
            img_size=224,
            seconds=0.1 if plan.tiny else 4.0 if plan.quick else 10.0,
            compiled=compiled,
            device=plan.device,
            ceilings=ceilings,
        )
        save(plan, found)
    return count_wrong(found)


def recipe(plan: Plan) -> int:
    """The original recipe's table: images/s of training on one card; how many are wrong."""
    from acmix.benchmark.networks import benchmark_networks

    found: list[Measurement] = []
    for name in within(plan, list((TINY_MODELS if plan.tiny else MODELS).values())[: 1 if plan.tiny else None]):
        found += benchmark_networks(
            [name],
            phase="train",
            batch_size=2 if plan.tiny else 128,
            seconds=0.1 if plan.tiny else 4.0 if plan.quick else 10.0,
            device=plan.device,
        )
        write_rows(rows(found, line=plan.name, device=plan.device), plan.file("_recipe.csv"))
    return count_wrong(found)


def curves(plan: Plan) -> int:
    """Trains one model with kernels and with the reference operators from one seed, and draws both losses."""
    from matplotlib.figure import Figure

    steps = 2 if plan.tiny else 100 if plan.quick else 400
    losses = {name: losses_of(plan, name, steps) for name in (["reference"] if plan.tiny else ["triton", "reference"])}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title=f"{TINY_MODELS['swin']}, bf16, one seed")
    for name, values in losses.items():
        axes.plot(values, label=f"ops.use({name!r})", linewidth=1)
    axes.legend(frameon=False)
    figure.savefig(plan.file("_curves.png"), dpi=120)
    with plan.file("_curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *losses])
        writer.writerows([step, *values] for step, values in enumerate(zip(*losses.values(), strict=True)))
    last = {name: sum(values[-20:]) / len(values[-20:]) for name, values in losses.items()}
    print(", ".join(f"{name}: mean loss of the last 20 steps {value:.4f}" for name, value in last.items()))
    return 0 if all(value == value for value in last.values()) else 1


def losses_of(plan: Plan, implementation: str, steps: int) -> list[float]:
    """The losses of so many steps on images that are a pattern of their class under noise."""
    torch.manual_seed(0)
    model = acmix.create_model(TINY_MODELS["swin"], num_classes=10).to(plan.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, fused=True)
    draw = torch.Generator(device=plan.device).manual_seed(1)
    patterns = torch.randn(10, 3, 224, 224, generator=draw, device=plan.device)  # (classes, 3, h, w)
    found = []
    with ops.use(implementation):
        for _ in range(steps):
            targets = torch.randint(10, (2 if plan.tiny else 64,), generator=draw, device=plan.device)
            noise = torch.randn(len(targets), 3, 224, 224, generator=draw, device=plan.device)
            with torch.autocast(plan.device.type, torch.bfloat16):
                logits = model(0.2 * patterns[targets] + noise)  # (B, classes)
            loss = F.cross_entropy(logits.float(), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            found.append(loss.detach())
    return torch.stack(found).tolist()


def profiles(plan: Plan) -> int:
    """Where the time of a training step goes, of ours and its peers, as a table and a picture."""
    from acmix.benchmark.contestants import contestants, peer_of, profile
    from acmix.benchmark.steps import Setting

    name = (TINY_MODELS if plan.tiny else MODELS)["swin"]
    setting = Setting("train", "bf16", 2 if plan.tiny else 128, 224, plan.device)
    ours = contestants(name, setting)[0]
    peers = [peer for each in ("plain", "timm") if (peer := peer_of(ours, name, each, setting))]
    spent = {each.name: profile(each, setting) for each in [ours, *peers][: 1 if plan.tiny else None]}
    print("\n".join(where.table(spent)))
    where.save_plot(spent, f"{name}, a training step of {setting.batch_size} images, bf16", plan.file(".png"))
    return 0


def within(plan: Plan, units: list[Any]) -> Iterator[Any]:
    """Units until the part's time is used up; what is left out is said."""
    began = time.monotonic()
    for number, unit in enumerate(units):
        if number and time.monotonic() - began > plan.seconds:
            print(f"left out, since the time is used up: {len(units) - number} of {len(units)}", flush=True)
            return
        yield unit


def save(plan: Plan, found: list[Measurement]) -> None:
    """Writes what a part has measured so far, beside what other parts have."""
    write_rows(rows(found, line=plan.name, device=plan.device), plan.file(".csv"), replace_lines=[plan.name])


def count_wrong(found: list[Measurement]) -> int:
    """How many measurements have no speed because a result was wrong."""
    return sum(each.speed is None for each in found)


def run(plan: Plan) -> int:
    """Runs the part; how many results were wrong."""
    kind, *words = plan.name.split(":")
    parts: dict[str, Callable[..., int]] = {
        "correct": correct,
        "operators": operators,
        "recipe": recipe,
        "curves": curves,
        "profile": profiles,
    }
    if kind in parts:
        return parts[kind](plan, *words)
    return models(plan, kind, *words, compiled=kind == "compiled")


def arguments() -> Plan:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="PART")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--card", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    # 3, as `gpu.py` reads it: the part ran, and a result was wrong
    sys.exit(3 if run(arguments()) else 0)
