"""`benchmarks/gpu.py`: what it says without a GPU, and that a part which fails stops no other."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acmix import ops
from acmix.benchmark.operators import Shape, pairs
from acmix.benchmark.peers import flex_attention_in_neighbourhoods
from tests.support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, in a process that sees no GPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def test_without_a_gpu_one_line_says_so_and_the_status_is_2() -> None:
    told = run("--quick")
    assert told.returncode == 2
    assert told.stdout == ""
    assert "finds no GPU here" in told.stderr
    assert told.stderr.count("\n") == 1


def test_help_needs_no_gpu() -> None:
    told = run("--help")
    assert told.returncode == 0
    assert "--quick" in told.stdout


def test_parts_that_run_side_by_side_leave_one_file(tmp_path: Path) -> None:
    parts = ["correct:conv_path:float32", "correct:window_attention:float32"]
    told = run("--device", "cpu", "--results", str(tmp_path), "--only", *parts)
    assert told.returncode == 0, told.stdout + told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_cpu_correct.csv"]
    with (tmp_path / "gpu_cpu_correct.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["operator"] for row in rows} == {"conv_path", "window_attention"}
    assert {row["right"] for row in rows} == {"True"}


def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("", encoding="utf-8")
    parts = ["correct:conv_path:float32", "correct:local_attention:float32"]
    told = run("--device", "cpu", "--results", str(no_folder), "--only", *parts)
    assert told.returncode == 1
    for part in parts:
        assert f"{part:<36} failed with status 1" in told.stdout


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("side", "stride"), [(7, 1), (9, 2), (6, 2)])
def test_flex_attention_as_a_peer_computes_local_attention(side: int, stride: int) -> None:
    shape = Shape("local_attention", side, 8, 2, stride=stride)
    drawn = shape.tensors(2, torch.float32, torch.device("cpu"))
    # on a CPU it has no gradient
    tensors = {name: tensor.detach() for name, tensor in drawn.items()}
    with ops.use("reference"):
        expected = ops.local_attention(**tensors, **shape.settings)
    found = flex_attention_in_neighbourhoods(**tensors, **shape.settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_gpu_a_line_says_why_flex_attention_is_no_peer() -> None:
    said: list[str] = []
    shape = Shape("local_attention", 4, 8, 2)
    list(pairs(shape, 1, "fp32", torch.device("cpu"), said.append))
    assert said == ["4x4 C 8 N 2: FlexAttention is no peer here: its kernels are for a GPU"]
