"""The script that counts models writes its files and both tables."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from acmix.benchmark.published import counts
from acmix.tools import paper

NAME = "acmix_resnet26"


def test_the_script_writes_files_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page, marker in (("README.md", "models"), ("docs/models.md", "paper")):
        file = tmp_path / page
        file.parent.mkdir(exist_ok=True)
        marks = f"<!-- {marker}: python benchmarks/models.py -->", f"<!-- end of {marker} -->"
        file.write_text(f"{marks[0]}\nold\n{marks[1]}\n", encoding="utf-8")
    monkeypatch.setattr(counts, "list_models", lambda: [NAME])
    monkeypatch.setattr(paper, "list_models", lambda: [NAME])
    monkeypatch.setattr(sys, "argv", ["models.py"])
    assert counts.main(tmp_path) == 0
    for page in ("README.md", "docs/models.md"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert "old" not in text
        assert NAME in text
    results = tmp_path / "benchmarks" / "results"
    with (results / "models.csv").open(newline="", encoding="utf-8") as table:
        assert [row["model"] for row in csv.DictReader(table)] == [NAME]
    with (results / "paper_params.csv").open(newline="", encoding="utf-8") as table:
        assert {row["model"] for row in csv.DictReader(table)} == {NAME}
