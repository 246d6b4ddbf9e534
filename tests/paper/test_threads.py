"""Runs have the threads that their grid was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.paper.runs import Run
from acmix.paper.threads import THREADS, keep, threads_of

RUNS = [Run("small", "both", seed) for seed in range(3)]


def test_a_grid_shares_the_cores_out_and_keeps_it_so(tmp_path: Path) -> None:
    assert threads_of(RUNS, tmp_path, 1) == (cores(), False)
    assert threads_of(RUNS, tmp_path, 10**6) == (1, False)
    keep(3, tmp_path)
    keep(4, tmp_path)
    for jobs in (1, 2, 10**6):
        assert threads_of(RUNS, tmp_path, jobs) == (3, True)


def test_a_folder_from_before_goes_on_as_its_runs_say(tmp_path: Path) -> None:
    waiting, begun = RUNS[0], Run("small", "both", 1, device="Some Processor (v2) @ 2 GHz (7 threads, AVX2)")
    assert threads_of([waiting, begun], tmp_path, 1) == (7, True)
    assert threads_of([Run("small", "both", 1, device="A Card")], tmp_path, 1) == (cores(), False)


@pytest.mark.parametrize("content", [b"", b"0", b"two", b"99999", b"\xff", b"1e3"])
def test_a_damaged_number_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / THREADS).write_bytes(content)
    with pytest.raises(UsageError, match=r"threads\.txt is damaged"):
        threads_of(RUNS, tmp_path, 1)
