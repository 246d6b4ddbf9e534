"""Figures go where they are told, and say where they come from."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from acmix.benchmark.pairs import Measurement, Speed, Subject
from acmix.benchmark.record import COLUMNS, WRONG, rows, write_rows, write_table
from acmix.errors import UsageError

CPU = torch.device("cpu")
SUBJECT = Subject("sum", "8", "fp32", "forward", 2)


def test_a_line_that_is_measured_again_replaces_its_rows_and_leaves_the_others(tmp_path: Path) -> None:
    speed = Speed(5, 1.0, 2000.0, 2.0, 1.5, 2.5, 2.0, bytes_share=0.123456)
    found = [Measurement(SUBJECT, "ours", "peer", speed), Measurement(SUBJECT, "ours", "peer", None, ("no",))]
    file = tmp_path / "new" / "speed.csv"
    for line in ("a", "b"):
        write_rows(rows(found, line=line, device=CPU), file, replace_lines=[line])
    write_rows(rows(found[:1], line="a", device=CPU), file, replace_lines=["a"])
    written = list(csv.DictReader(file.open(encoding="utf-8")))
    assert list(written[0]) == list(COLUMNS)
    assert [row["line"] for row in written] == ["b", "b", "a"]
    assert [row["speed_up"] for row in written] == ["2.0", WRONG, "2.0"]
    assert (written[0]["bytes_share"], written[0]["peak_mib"], written[1]["time_ms"]) == ("0.1235", "", "")
    assert {each.name for each in fields(Speed)} < set(COLUMNS)


def test_a_file_that_holds_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("model,card\na,b\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no table of speed"):
        write_rows([], file, replace_lines=["a"])
    assert file.read_text(encoding="utf-8") == "model,card\na,b\n"


def test_rows_of_a_table_are_told_apart_by_their_key(tmp_path: Path) -> None:
    file = tmp_path / "tables" / "table.csv"
    write_table(file, ("kind", "runs"), [{"kind": "a", "runs": 1}, {"kind": "b", "runs": 2}, {"kind": "b", "runs": 3}])
    write_table(file, ("kind", "runs"), [{"kind": "b", "runs": 4}], key=("kind",))
    assert file.read_text().splitlines() == ["kind,runs", "a,1", "b,4"]
    write_table(file, ("kind", "runs"), [{"kind": "c", "runs": 5}])
    assert file.read_text().splitlines() == ["kind,runs", "c,5"]
    with pytest.raises(UsageError, match="cannot write"):
        write_table(tmp_path, ("kind",), [])
