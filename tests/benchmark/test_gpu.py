"""`benchmarks/gpu.py`: what it says without a GPU, and that a part which fails stops no other."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE, Ended, module

SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*arguments: str) -> Ended:
    """What the script runs; without a GPU."""
    return module("acmix.benchmark.gpu", *arguments, CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_without_a_gpu_one_line_says_so_and_the_status_is_2() -> None:
    # as it is run where acmix is not installed: elsewhere, told nothing of the package
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--quick"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=SCRIPT.anchor, timeout=PATIENCE)
    assert told.returncode == 2
    assert told.stdout == ""
    assert "finds no GPU here" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.slow
def test_help_needs_no_gpu() -> None:
    told = run("--help")
    assert told.status == 0
    assert "--quick" in told.output


@pytest.mark.slow
def test_parts_that_run_side_by_side_leave_one_file(tmp_path: Path) -> None:
    parts = ["correct:conv_path:float32", "correct:window_attention:float32"]
    told = run("--device", "cpu", "--results", str(tmp_path), "--only", *parts)
    assert told.status == 0, told.output + told.errors
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_cpu_correct.csv"]
    with (tmp_path / "gpu_cpu_correct.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["operator"] for row in rows} == {"conv_path", "window_attention"}
    assert {row["right"] for row in rows} == {"True"}


@pytest.mark.slow
def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("", encoding="utf-8")
    parts = ["correct:conv_path:float32", "correct:local_attention:float32"]
    told = run("--device", "cpu", "--results", str(no_folder), "--only", *parts)
    assert told.status == 1
    for part in parts:
        assert f"{part:<36} failed with status 1" in told.output
