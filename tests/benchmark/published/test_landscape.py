"""`benchmarks/landscape.py`: one pair at its smallest, and the table that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix.benchmark.published import measured
from acmix.benchmark.published.landscape import PEERS, landscape
from acmix.benchmark.record import COLUMNS, write_rows
from tests.support.paths import ROOT
from tests.support.processes import script


def row(**cells: object) -> dict[str, object]:
    known = {"machine": "A", "torch": "2", "timm": "1", "commit": "0123456789", "date": "2026-11-26 05:00"}
    figures = {"images": 8, "dtype": "fp32", "speed_up": 1.25, "images_per_second": 5.0, "peer_time_ms": 2000.0}
    return {**dict.fromkeys(COLUMNS, ""), **known, **figures, **cells}


def test_a_model_that_was_not_measured_in_both_phases_has_no_line(tmp_path: Path) -> None:
    assert landscape(measured.read(tmp_path)) == []
    rows = [row(peer="resnet50", phase="infer"), row(peer="resnet50", phase="train", speed_up=0.8)]
    write_rows([*rows, row(peer="convnext_tiny", phase="infer")], tmp_path / "landscape.csv")
    accuracies = (ROOT / "benchmarks" / "results" / "landscape_top1.csv").read_text(encoding="utf-8")
    (tmp_path / "landscape_top1.csv").write_text(accuracies, encoding="utf-8")
    _, _, ours, theirs, *rest = landscape(measured.read(tmp_path))
    assert ours.split(" | ")[1::3] == ["81.9 %", "5.00", "1 |"]
    assert theirs.strip("| ").split(" | ")[:2] == ["`resnet50`", "81.2 % at 288 px"]
    assert theirs.strip("| ").split(" | ")[4:] == ["4.00", "4.00", "1.25", "0.800"]
    assert rest[1].startswith("8 images of 224 px in fp32. A, torch 2,")
    assert {line["model"] for line in measured.read(tmp_path).top1} > set(PEERS)


@pytest.mark.slow
def test_a_pair_is_measured_and_written(tmp_path: Path) -> None:
    options = ["--only", "resnet50", "--seconds", "4", "--batch-size", "2", "--img-size", "64", "--results", tmp_path]
    done = script(ROOT / "benchmarks" / "landscape.py", *options)
    assert done.status == 0, done.errors
    found = measured.read(tmp_path).landscape
    assert [(each["peer"], each["phase"]) for each in found] == [("resnet50", "infer"), ("resnet50", "train")]
    assert all(float(each["speed_up"]) > 0 for each in found)
    assert "passed" in done.errors
