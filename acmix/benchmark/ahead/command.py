"""All operators, targets and formats, compiled ahead of time into a table.

python benchmarks/gpu.py --ahead [DTYPE ...] [--results FOLDER]   ->  gpu_ahead.csv, gpu_roofline.csv
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from acmix.benchmark.ahead.targets import TARGETS
from acmix.benchmark.record import counted, write_table
from acmix.errors import UsageError
from acmix.ops.dispatch import OPERATORS
from acmix.train.log import duration

COLUMNS = (
    *("operator", "kernel", "shape", "dtype", "target", "warps", "stages"),
    *("registers", "spill_bytes", "shared_bytes", "programs_per_multiprocessor", "error"),
)
# processes at a time
JOBS = 2
# what kernels aim at
MOST_REGISTERS, LEAST_PROGRAMS = 128, 2


def main(results: Path, dtypes: Sequence[str]) -> int:
    """Compiles and writes both tables; the exit status: 1 where something does not compile.

    Args:
        results: the folder of the tables; rows of other formats in them stay.
        dtypes: of the data.

    Raises:
        UsageError: Triton is not installed.
    """
    if find_spec("triton") is None:
        raise UsageError("triton is not installed; `pip install triton`")
    rows = [*all_rows(dtypes)]
    # a format's rows are all made anew, since a choice that is dropped has none
    write_table(results / "gpu_ahead.csv", COLUMNS, rows, key=("dtype",))
    print("\n".join(summary(rows)))
    print(f"written: {results / 'gpu_ahead.csv'}")
    # after the question whether Triton is there
    from acmix.benchmark.ahead.roofline import write as write_roofline

    write_roofline(results / "gpu_roofline.csv")
    return int(any("error" in row for row in rows))


def all_rows(dtypes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of every operator, target and format, each combination by a process of its own, with progress."""
    units = [(name, target, dtype) for name in OPERATORS for target in TARGETS for dtype in dtypes]
    began = time.monotonic()
    with ThreadPoolExecutor(JOBS) as pool:
        for done, rows in enumerate(pool.map(lambda unit: rows_of(*unit), units), 1):
            left = (time.monotonic() - began) / done * (len(units) - done)
            words = f"{' '.join(units[done - 1])}: {counted(len(rows), 'row')}"
            print(f"{done}/{len(units)} · {words} · about {duration(left)} left", flush=True)
            yield from rows


def rows_of(operator: str, target: str, dtype: str) -> list[dict[str, Any]]:
    """What `compiled` says of one combination, and a row that says so where its process failed."""
    command = [sys.executable, "-W", "ignore", "-m", "acmix.benchmark.ahead.compiled", operator, target, dtype]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    if told.returncode:
        lost = dict.fromkeys(("kernel", "shape", "warps", "stages"), "")
        why = (told.stderr.splitlines() or ["?"])[-1]
        rows.append({**lost, "operator": operator, "target": target, "dtype": dtype, "error": why[:200]})
    return rows


def how_bad(row: dict[str, Any]) -> tuple[bool, int, bool, int]:
    """What tells a better choice of settings from a worse one: errors, spills, few programs, registers."""
    if "error" in row:
        return True, 0, True, 0
    return False, row["spill_bytes"], row["programs_per_multiprocessor"] < LEAST_PROGRAMS, row["registers"]


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line a kernel, format and target: of each launch the best of its choices, of these the worst."""
    launches: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        launches.setdefault(tuple(row[name] for name in COLUMNS[:5]), []).append(row)
    kernels: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for choices in launches.values():
        best = min(choices, key=how_bad)
        kernels.setdefault(tuple(best[name] for name in ("operator", "kernel", "dtype", "target")), []).append(best)
    yield f"{'operator':<20}{'kernel':<16}{'dtype':<10}{'target':<8}{'registers':>10}{'spilled':>9}{'programs':>9}"
    for (operator, kernel, dtype, target), found in kernels.items():
        ok = [row for row in found if "error" not in row]
        most, spilled = (max((row[name] for row in ok), default=0) for name in ("registers", "spill_bytes"))
        programs = min((row["programs_per_multiprocessor"] for row in ok), default=0)
        more = "  beyond the aim" if most > MOST_REGISTERS or spilled or programs < LEAST_PROGRAMS else ""
        yield f"{operator:<20}{kernel:<16}{dtype:<10}{target:<8}{most:>10}{spilled:>9}{programs:>9}{more}"
