"""The table of compiled kernels, in the form before and in today's, for acmix/ops/README.md.

python -m acmix.benchmark.ahead.before      puts it there from benchmarks/results/gpu_ahead_before.csv and gpu_ahead.csv
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from acmix.benchmark.ahead.command import how_bad
from acmix.benchmark.ahead.targets import TARGETS
from acmix.benchmark.published.cells import put_between

PAGE = "acmix/ops/README.md"
START, END = "<!-- ahead: python -m acmix.benchmark.ahead.before -->", "<!-- end of ahead -->"
FIGURES = ("registers", "spill_bytes", "programs_per_multiprocessor")
DTYPE = "bfloat16"


def table(root: Path) -> str:
    """The worst of an operator's kernels and shapes, each with the best of its settings, a line an operator."""
    files = [root / "benchmarks" / "results" / name for name in ("gpu_ahead_before.csv", "gpu_ahead.csv")]
    before, now = ([row for row in read(file) if row["dtype"] == DTYPE] for file in files)
    lines = [f"| operator | {' | '.join(TARGETS)} |", f"|---|{'---|' * len(TARGETS)}"]
    for operator in dict.fromkeys(row["operator"] for row in now):
        cells = []
        for target in TARGETS:
            then, today = (
                worst([row for row in rows if (row["operator"], row["target"]) == (operator, target)])
                for rows in (before, now)
            )
            cells.append(today if then == today else f"{then} → {today}")
        lines.append(f"| {operator} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read(file: Path) -> list[dict[str, str | int]]:
    """The rows of a table that compiled."""
    with file.open(newline="", encoding="utf-8") as opened:
        # a row has an error where there is one
        rows = [row for row in csv.DictReader(opened) if not row.pop("error")]
    return [{**row, **{name: int(row[name]) for name in FIGURES}} for row in rows]  # pyright: ignore[reportReturnType]


def worst(rows: Sequence[dict[str, str | int]]) -> str:
    """Most registers, most spilled bytes and fewest programs, over launches that each have their best settings."""
    launches: dict[tuple[str | int, str | int], list[dict[str, str | int]]] = {}
    for row in rows:
        launches.setdefault((row["kernel"], row["shape"]), []).append(row)
    best = [min(choices, key=how_bad) for choices in launches.values()]
    registers, spilled, programs = ([int(row[name]) for row in best] for name in FIGURES)
    return f"{max(registers)}, {max(spilled)}, {min(programs)}"


if __name__ == "__main__":
    repository = Path.cwd()
    put_between(repository / PAGE, START, END, table(repository))
    print(f"written: {PAGE}")
