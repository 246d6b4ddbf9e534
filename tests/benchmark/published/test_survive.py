"""The page on training tells what `benchmarks/survive.py` measured."""

from __future__ import annotations

import csv

from tests.support.paths import ROOT


def test_the_page_tells_how_many_killed_runs_ended_equal() -> None:
    with (ROOT / "benchmarks" / "results" / "survive.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("runs", "kills", "starting", "training", "evaluating", "writing", "equal", "different", "failed")
    runs, kills, starting, training, evaluating, writing, equal, different, failed = (
        sum(int(row[name]) for row in rows) for name in names
    )
    assert (different, failed) == (0, 0)
    assert {(row["task"], row["images"], row["processes"]) for row in rows} >= {
        (task, "folder", processes) for task in ("classify", "detect", "segment") for processes in ("1", "2")
    }
    page = " ".join((ROOT / "docs" / "train.md").read_text(encoding="utf-8").split())
    told = f"Of {runs} small runs that were killed {kills} times ({starting} while starting, {training} training, "
    told += f"{evaluating} evaluating, {writing} writing a checkpoint) and started again until they were done, "
    told += f"{equal} ended equal"
    assert told in page
