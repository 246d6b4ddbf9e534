"""The tables of speed in the documents, made from what `speed.py` wrote.

A table stands between `<!-- speed:NAME -->` and `<!-- /speed:NAME -->`. `python benchmarks/speed.py --tables` writes
them all again; a test holds what stands there equal to what comes out of here.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeGuard

import torch
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix.benchmark.operators import Shape, shapes
from acmix.benchmark.record import WRONG
from acmix.errors import UsageError

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SWIN, RESNET = "acmix_swin_tiny_patch4_window7_224", "acmix_resnet50"
SHORT = {SWIN: "ACmix-Swin-T", RESNET: "ACmix-ResNet-50"}
PLAIN = {SWIN: "plain Swin-T", RESNET: "ResNet-50"}
STEP = {"infer": "inference", "train": "training step"}
# the size at which models are compared
FULL = {"shape": "224x224", "images": "8"}
NOT_MEASURED, NOTHING = "not measured", "Not measured yet."

Row = dict[str, str]


@dataclass(frozen=True)
class Found:
    """What was measured on one device.

    Args:
        rows: of `speed_cpu.csv`.
        groups: of `speed_cpu_groups.csv`.
        picture: whether there is a `speed_cpu.png`.
    """

    rows: list[Row]
    groups: list[Row]
    picture: bool

    def one(self, **cells: str) -> Row | None:
        """The first row with these cells, or None."""
        return next(self.all(**cells), None)

    def all(self, **cells: str) -> Iterator[Row]:
        """Every row with these cells."""
        return (row for row in self.rows if all(row[key] == value for key, value in cells.items()))


@dataclass(frozen=True)
class Target:
    """What the kernels were built to reach.

    Args:
        what: the measurement in words.
        cells: those of its row.
        wanted: the ratio to reach at least; for memory the one to stay below.
        memory: whether it is our peak memory over the peer's.
    """

    what: str
    cells: Row
    wanted: float
    memory: bool = False


def read(results: Path = RESULTS) -> Found:
    """What `speed.py` left in a folder; nothing where it has not run.

    Raises:
        UsageError: a file there that is not one of `speed.py`'s.
    """
    found = Found(
        rows=rows_of(results / "speed_cpu.csv"),
        groups=rows_of(results / "speed_cpu_groups.csv"),
        picture=(results / "speed_cpu.png").is_file(),
    )
    for name, rows, key in (("speed_cpu.csv", found.rows, "ratio"), ("speed_cpu_groups.csv", found.groups, "share")):
        if rows and key not in rows[0]:
            raise UsageError(f"{results / name} has no column {key!r}; run benchmarks/speed.py, which writes it")
    return found


def rewrite(found: Found, root: Path = ROOT) -> list[Path]:
    """Writes the tables into the documents.

    Args:
        found: what was measured.
        root: of the repository.

    Returns:
        The files that changed.
    """
    changed = []
    for page in (root / "README.md", root / "README.zh.md", *sorted((root / "docs").glob("*.md"))):
        before = page.read_text(encoding="utf-8")
        after = filled(before, found)
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


def filled(text: str, found: Found) -> str:
    """A document with its tables made anew.

    Raises:
        UsageError: a table that nobody makes.
    """

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise UsageError(f"no table {name!r}; there are {', '.join(TABLES)}")
        body = "\n".join(TABLES[name](found)) or NOTHING
        return f"<!-- speed:{name} -->\n{body}\n<!-- /speed:{name} -->"

    return re.sub(r"<!-- speed:(\w+) -->\n.*?<!-- /speed:\1 -->", made, text, flags=re.DOTALL)


# --- tables


def machine(found: Found) -> list[str]:
    """On what, with what and when it was measured."""
    kinds = {}
    for row in found.rows:
        kinds.setdefault((row["machine"], row["torch"], row["timm"]), []).append(row)
    lines = []
    for (name, torch_version, timm_version), rows in kinds.items():
        commits = ", ".join(dict.fromkeys(f"`{row['commit'][:7]}`" for row in rows))
        days = " and ".join(sorted({row["date"].split()[0] for row in rows}))
        lines.append(f"{name}, torch {torch_version}, timm {timm_version}, commit {commits}, {days}.")
    return lines


def headline(found: Found) -> list[str]:
    """How many times as fast whole models and the layer are."""
    lines = []
    sides = [(name, peer) for name in PLAIN for peer in ("timm", "plain")]
    for name, peer in sides:
        theirs = f"timm's {PLAIN[name]}" if peer == "timm" else "the same without the convolution path"
        for phase, step in STEP.items():
            rows = [
                found.one(subject=name, peer=peer, phase=phase, dtype=dtype, candidate="acmix", **FULL)
                for dtype in ("fp32", "bf16")
            ]
            lines.append((f"{SHORT[name]} beside {theirs}, {step}", *map(ratio_of, rows)))
    others = [
        (f"{SHORT[RESNET]} beside the released form of its layers, training step", dict(line="resnet_unfold", **FULL)),
        ("`ACmix2d(64, 64)` at 80×80, one image, beside a 3×3 convolution", dict(line="layer", peer="3x3 convolution")),
        ("`ACmix2d(64, 64)` at 80×80, one image, beside its released form", dict(line="layer", peer="released form")),
    ]
    lines += [(what, ratio_of(found.one(**cells)), "") for what, cells in others]
    return table(("times as fast, 8 images", "fp32", "bf16"), lines) if found.rows else []


def targets(found: Found) -> list[str]:
    """What was aimed at, what was measured, and whether that is enough."""
    lines = []
    for each in TARGETS:
        row = found.one(**each.cells)
        wanted = f"{'at most' if each.memory else 'at least'} {each.wanted:g}"
        if not is_right(row):
            lines.append((each.what, wanted, ratio_of(row), "" if row is None else "**no**"))
        elif each.memory:
            known = row["peak_mib"] and row["peer_peak_mib"]
            value = float(row["peak_mib"]) / float(row["peer_peak_mib"]) if known else math.nan
            lines.append((each.what, wanted, three(value), "yes" if value <= each.wanted else "**no**"))
        else:
            met = float(row["ratio"]) >= each.wanted
            lines.append((each.what, wanted, ratio_of(row, spread=True), "yes" if met else "**no**"))
    return table(("what", "wanted", "measured", "met"), lines) if found.rows else []


def ceilings(found: Found) -> list[str]:
    """The fastest product and the fastest copy, from what a known amount of work was a share of."""
    lines = []
    for dtype in ("fp32", "bf16"):
        rates = []
        for row in model_rows(found):
            if row["dtype"] == dtype:
                rates.append(gmacs_of(row["subject"], row["phase"]) * int(row["images"]) / floor_ms(row) * 1000)
        if rates:
            lines.append((f"product of two 2048×2048 matrices, {dtype}", range_of(rates), "GMAC/s"))
    moved = {str(shape): 4 * shape.side**2 * 4 * shape.channels for shape in shapes("conv_path") if is_square(shape)}
    rates = [
        int(row["images"]) * moved[row["shape"]] / float(row["time_ms"]) / float(row["bytes_share"]) / 1e6
        for row in found.all(line="conv_path", phase="forward", dtype="fp32")
        if row["shape"] in moved and row["ratio"] != WRONG
    ]
    if rates:
        lines.append(("copy of 256 MiB, bytes read and written", range_of(rates), "GB/s"))
    return table(("ceiling", "reached", ""), lines) if lines else []


def floors(found: Found) -> list[str]:
    """For each model the time that its multiply-adds take at the ceiling, and the time it took."""
    lines = []
    for row in model_rows(found):
        gmacs = gmacs_of(row["subject"], row["phase"]) * int(row["images"])
        step = f"{SHORT[row['subject']]}, {STEP[row['phase']]}, {row['dtype']}"
        lines.append(
            (step, f"{gmacs:.1f}", three(floor_ms(row)), three(float(row["time_ms"])), percent(row["flops_share"]))
        )
    return table(("8 images", "10⁹ multiply-adds", "floor, ms", "measured, ms", "share"), lines) if lines else []


def models(found: Found) -> list[str]:
    """Every pair of models."""
    lines = []
    for row in found.all(**FULL):
        if row["subject"] not in SHORT:
            continue
        what = SHORT[row["subject"]] + row["candidate"].removeprefix("acmix")
        head = (f"{what}, {STEP[row['phase']]}, {row['dtype']}", row["peer"], ratio_of(row, spread=True))
        if not is_right(row):
            lines.append((*head, "", "", ""))
            continue
        times = f"{three(float(row['time_ms']))} / {three(float(row['peer_time_ms']))}"
        memory = f"{row['peak_mib'] or '?'} / {row['peer_peak_mib'] or '?'}"
        lines.append((*head, times, row["images_per_second"], memory))
    names = ("model", "peer", "times as fast", "ms, ours / peer", "images/s", "peak MiB, ours / peer")
    return table(names, lines) if lines else []


def operator(name: str, found: Found) -> list[str]:
    """An operator's shapes: milliseconds, and how many times as fast as each peer; forward / with backward."""
    rows = list(found.all(line=name, dtype="fp32"))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        pairs = [
            {row["peer"]: row for row in rows if row["shape"] == shape and row["phase"] == phase}
            for phase in ("forward", "forward+backward")
        ]
        first = [next(iter(pair.values()), None) for pair in pairs]
        times = " / ".join(three(float(row["time_ms"])) if is_right(row) else WRONG for row in first)
        work = " / ".join(percent(row["flops_share"]) if is_right(row) else "" for row in first)
        ratios = [" / ".join(ratio_of(pair.get(peer)) for pair in pairs) for peer in peers]
        lines.append((shape, times, work, *ratios))
    return table(("shape", "ms", "share of the product's rate", *peers), lines) if lines else []


def groups(found: Found) -> list[str]:
    """Where the time of a run goes, and the drawing of it."""
    names = list(dict.fromkeys(row["model"] for row in found.groups))
    spent = {(row["group"], row["model"]): row for row in found.groups}
    lines = []
    for group in dict.fromkeys(row["group"] for row in found.groups):
        cells = [spent[group, name] for name in names]
        if any(float(cell["time_ms"]) for cell in cells):
            shown = [f"{float(cell['time_ms']):.0f} ({percent(cell['share'])})" for cell in cells]
            lines.append((group, *shown))
    picture = ["", "![The same as bars](../benchmarks/results/speed_cpu.png)"] if found.picture else []
    return [*table(("ms (share)", *names), lines), *picture] if lines else []


TABLES: dict[str, Callable[[Found], list[str]]] = {
    "machine": machine,
    "headline": headline,
    "targets": targets,
    "ceilings": ceilings,
    "floors": floors,
    "models": models,
    "groups": groups,
    "conv_path": lambda found: operator("conv_path", found),
    "window_attention": lambda found: operator("window_attention", found),
    "local_attention": lambda found: operator("local_attention", found),
}

STAGES = (("56x56 C 96 N 3", 12, 10), ("28x28 C 192 N 6", 7, 7), ("14x14 C 384 N 12", 5, 5), ("7x7 C 768 N 24", 4, 4))
TARGETS = (
    *(
        Target(
            f"`conv_path` {phase}, {shape}, beside the reference",
            dict(line="conv_path", shape=shape, images="8", dtype="fp32", phase=phase, peer="reference"),
            wanted,
        )
        for phase, column in (("forward", 1), ("forward+backward", 2))
        for shape, wanted in ((stage[0], float(stage[column])) for stage in STAGES)
    ),
    *(
        Target(
            f"{SHORT[SWIN]}, {STEP[phase]}, {dtype}, beside timm's plain Swin-T",
            dict(subject=SWIN, phase=phase, dtype=dtype, peer="timm", candidate="acmix", **FULL),
            1.0,
        )
        for dtype in ("fp32", "bf16")
        for phase in STEP
    ),
    Target(
        f"{SHORT[RESNET]}, training step, beside the released form of its layers",
        dict(line="resnet_unfold", subject=RESNET, peer="released form", **FULL),
        8.0,
    ),
    *(
        Target(
            f"{SHORT[RESNET]}, training step, {dtype}, beside timm's ResNet-50",
            dict(subject=RESNET, phase="train", dtype=dtype, peer="timm", **FULL),
            0.8,
        )
        for dtype in ("fp32", "bf16")
    ),
    Target(
        f"{SHORT[RESNET]}, training step, peak memory ÷ timm's ResNet-50's",
        dict(subject=RESNET, phase="train", dtype="fp32", peer="timm", **FULL),
        1.5,
        memory=True,
    ),
    Target(
        "`ACmix2d(64, 64)` at 80×80, one image, beside a 3×3 convolution",
        dict(line="layer", peer="3x3 convolution"),
        0.5,
    ),
)


# --- cells


def rows_of(path: Path) -> list[Row]:
    """A CSV's rows; none where it is missing."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(names: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Markdown; the first column is text, the others are figures."""
    names = list(names)
    head = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    return [*head, *[f"| {' | '.join(line)} |" for line in lines]]


def is_right(row: Row | None) -> TypeGuard[Row]:
    """Whether there is a speed."""
    return row is not None and row["ratio"] != WRONG


def is_square(shape: Shape) -> bool:
    """Whether the output has as many pixels as the input."""
    return shape.stride == 1


def ratio_of(row: Row | None, *, spread: bool = False) -> str:
    """How many times as fast, with quartiles if asked; WRONG where the result is, or that there is none."""
    if row is None:
        return NOT_MEASURED
    if row["ratio"] == WRONG:
        return WRONG
    middle = three(float(row["ratio"]))
    return f"{middle} ({three(float(row['ratio_low']))} to {three(float(row['ratio_high']))})" if spread else middle


def three(value: float) -> str:
    """Three digits at least, and no more behind the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def percent(share: str) -> str:
    """A share, 0 to 1, as whole hundredths."""
    return f"{100 * float(share):.0f} %"


def range_of(values: list[float]) -> str:
    """The median, and the lowest and the highest where they are more than a hundredth apart."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return three(middle) + (f" ({three(low)} to {three(high)})" if high > 1.01 * low else "")


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


@cache
def gmacs_of(name: str, phase: str) -> float:
    """10⁹ multiply-adds of a model for one image of 224², with those of the backward pass for a training step."""
    with torch.device("meta"):
        model, image = acmix.create_model(name).train(phase == "train"), torch.empty(1, 3, 224, 224)
    with torch.set_grad_enabled(phase == "train"), FlopCounterMode(display=False) as counter:
        logits = model(image)
        if phase == "train":
            logits.sum().backward()
    return counter.get_total_flops() / 2e9
