"""The comparison of our evaluators with others sees what differs, and is written down."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import pytest

from acmix.benchmark import evaluators
from acmix.benchmark.evaluators import COLUMNS, largest_difference, main


def test_a_number_that_one_side_lacks_is_an_infinite_difference() -> None:
    assert largest_difference({"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 2.0}) == 0.5
    assert largest_difference({"a": 1.0, "b": None}, {"a": 1.0}) == 0
    assert largest_difference({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": None}) == math.inf


@pytest.mark.slow
def test_every_line_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "ODD_IMAGES", 20)
    output = tmp_path / "evaluators.csv"
    monkeypatch.setattr(sys, "argv", ["evaluators", "--images", "10", "--output", str(output)])
    assert main(tmp_path) == 0
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["processes"] for row in rows] == ["1"] * 4 + ["2"] * 4 + ["1"]
    assert all(float(row["largest_difference"]) < 1e-9 for row in rows[:-1])
    assert float(rows[-1]["speed_up"]) > 0
