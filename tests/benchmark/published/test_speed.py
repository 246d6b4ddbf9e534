"""`benchmarks/speed.py` in a process of its own: one line of it, at its smallest."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from acmix.benchmark.record import COLUMNS
from tests.support.paths import ROOT
from tests.support.processes import Ended, script


def run(*options: str | Path) -> Ended:
    return script(ROOT / "benchmarks" / "speed.py", *options)


@pytest.mark.slow
def test_a_line_is_measured_and_written(tmp_path: Path) -> None:
    done = run("--only", "layer", "--seconds", "0", "--results", tmp_path)
    assert done.status == 0, done.errors
    assert "ceilings here: " in done.output
    assert "--- layer, line 1 of 1" in done.output
    written = list(csv.DictReader((tmp_path / "speed_cpu.csv").open(encoding="utf-8")))
    assert list(written[0]) == list(COLUMNS)
    assert [(row["candidate"], row["peer"]) for row in written] == [
        ("acmix", "3x3 convolution"),
        ("acmix", "released form"),
        ("acmix", "3x3 convolution"),
    ]
    assert [row["subject"] for row in written][1:] == ["ACmix2d(64, 64)", "ACmix2d(256, 256)"]
    assert all(float(row["speed_up"]) > 0 and row["commit"] and "thread" in row["machine"] for row in written)


@pytest.mark.slow
def test_an_unknown_line_is_refused() -> None:
    done = run("--only", "everything")
    assert done.status == 2
    assert "invalid choice: 'everything'" in done.errors
