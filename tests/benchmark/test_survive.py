"""`benchmarks/survive.py`: what counts as a failure, and which processes are a run's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acmix.benchmark import survive
from acmix.benchmark.kills import FAULT, stayed
from acmix.benchmark.small_runs import Setting


@pytest.mark.parametrize("said", ["left 1 process behind", "hung for 300 s"])
def test_a_killed_call_that_hung_or_left_a_process_is_a_failure(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(setting: Any, folder: Path, output: Path, kill: Any) -> tuple[int, str]:
        kill.moment = "training"
        return FAULT, said

    monkeypatch.setattr(survive, "call", call)
    setting = Setting("classify", 1, tmp_path / "run.yaml", tmp_path / "whole", 1.0, 1.0)
    result = survive.survive(setting, 0, tmp_path, 0)
    assert (result.outcome, result.said, result.moments) == ("failed", f"({said})", ["training"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells what processes do")
def test_only_processes_of_the_folder_itself_count(tmp_path: Path) -> None:
    output = tmp_path / "run_1"
    beside = [sys.executable, "-c", "input()", f"{output}2", f"{output}/log.jsonl"]
    own = [sys.executable, "-c", "input()", "--output", f"{output}"]
    processes = [subprocess.Popen(each, stdin=subprocess.PIPE) for each in (beside, own)]
    assert stayed(output, 0.5) == [processes[1].pid]
    processes[1].communicate()
    assert stayed(output, 5.0) == []
    processes[0].communicate()
