"""The tables of speed in the documents, made from what `speed.py` wrote.

A table stands between `<!-- speed:NAME -->` and `<!-- /speed:NAME -->`. `python benchmarks/speed.py --tables` writes
them all again; a test holds what stands there equal to what comes out of here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix.benchmark.published.cells import percent, range_of, ratio_of, table, three
from acmix.benchmark.published.headline import costs, headline
from acmix.benchmark.published.landscape import landscape
from acmix.benchmark.published.measured import (
    FULL,
    SHORT,
    STEP,
    Found,
    Row,
    floor_ms,
    is_right,
    measured_on,
    model_rows,
)
from acmix.benchmark.published.targets import targets
from acmix.benchmark.record import WRONG
from acmix.errors import UsageError
from acmix.ops.dispatch import OPERATORS

NOTHING = "Not measured yet."
# calls of the four stages of Swin-T
OF_SWIN = tuple(f"{side}x{side} C {96 * 2**i} N {3 * 2**i}" for i, side in enumerate((56, 28, 14, 7)))


def rewrite(found: Found, root: Path) -> list[Path]:
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
        UsageError: an unknown table.
    """

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise UsageError(f"no table {name!r}; there are {', '.join(TABLES)}")
        body = "\n".join(TABLES[name](found)) or NOTHING
        return f"<!-- speed:{name} -->\n{body}\n<!-- /speed:{name} -->"

    return re.sub(r"<!-- speed:(\w+) -->\n.*?<!-- /speed:\1 -->", made, text, flags=re.DOTALL)


def machine(found: Found) -> list[str]:
    """On what, with what and when it was measured; where there are several machines, what on which."""
    kinds: dict[tuple[str, str, str], list[Row]] = {}
    for row in found.rows:
        kinds.setdefault((row["machine"], row["torch"], row["timm"]), []).append(row)
    several = len(kinds) > 1
    made = [
        measured_on(rows) + f" Lines: {', '.join(dict.fromkeys(row['line'] for row in rows))}." * several
        for rows in kinds.values()
    ]
    return [line for each in made for line in (each, "")][:-1]


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
    rates = [
        int(row["images"]) * moved / float(row["time_ms"]) / float(row["bytes_share"]) / 1e6
        for row in found.all(line="conv_path", phase="forward", dtype="fp32")
        if is_right(row) and (moved := bytes_moved(row["shape"]))
    ]
    if rates:
        lines.append(("copy of 256 MiB, bytes read and written", range_of(rates), "GB/s"))
    return table(("ceiling", "reached", ""), lines) if lines else []


def bytes_moved(shape: str) -> int:
    """What the convolution path reads and writes of an image in fp32, from its shape in words; 0 with a stride."""
    plain = re.fullmatch(r"(\d+)x(\d+) C (\d+) N \d+( shift \d+)?", shape)
    # three maps of C channels come in, and one goes out
    return 4 * 4 * int(plain[1]) * int(plain[2]) * int(plain[3]) if plain else 0


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
    names = ("model", "peer", "speed-up", "ms, ours / peer", "images/s", "peak MiB, ours / peer")
    return table(names, lines) if lines else []


def narrow(found: Found) -> list[str]:
    """Pairs that were measured with vectors of half the width, beside what this machine reaches with its own."""
    same = ("line", "subject", "shape", "dtype", "phase", "images", "candidate", "peer")
    lines = []
    for row in found.narrow:
        wide = found.one(**{key: row[key] for key in same})
        if row["subject"] in SHORT:
            what = (
                f"{SHORT[row['subject']]}{row['candidate'].removeprefix('acmix')}, {STEP[row['phase']]}, {row['dtype']}"
            )
        elif row["line"] == "conv_path" and row["shape"] in OF_SWIN and row["peer"] == "reference":
            what = f"`conv_path` {row['phase']}, {row['shape']}"
        else:
            continue
        lines.append((what, row["peer"], ratio_of(row, spread=True), ratio_of(wide, spread=True)))
    return [measured_on(found.narrow), "", *table(("what", "peer", "AVX2", "AVX-512"), lines)] if lines else []


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
    "costs": costs,
    "landscape": landscape,
    "targets": targets,
    "ceilings": ceilings,
    "floors": floors,
    "models": models,
    "narrow": narrow,
    "groups": groups,
    **{name: partial(operator, name) for name in OPERATORS},
}


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
