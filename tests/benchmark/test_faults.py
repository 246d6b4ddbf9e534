"""The benchmark of faults keeps what it did, tells a seen damage from an unseen one, and writes a row for each kind."""

import csv
import os
import random
import sys
from pathlib import Path

import pytest
import torch

from acmix.benchmark.faults import command, flips, killed, share
from acmix.benchmark.faults.disk import OTHER_HOST, held_elsewhere
from acmix.benchmark.faults.forked import Forked
from acmix.benchmark.faults.record import Case, Kept, by_kind, write_rows
from acmix.errors import UsageError
from acmix.released.digest import DIGEST, digest_of
from acmix.train import lock

posix = pytest.mark.skipif(os.name != "posix", reason="no fork, no locks")


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    kept, done = Kept(tmp_path / "results.jsonl"), list[int]()

    def do(number: int) -> Case:
        done.append(number)
        return Case("even" if number % 2 == 0 else "odd", ["seen"], f"line {number}")

    kept.each("flips", 2, do)
    kept.each("torn", 1, do)
    assert [case.line for case in Kept(kept.file).each("flips", 3, do)] == ["line 0", "line 1", "line 2"]
    assert done == [0, 1, 0, 2]


def test_a_row_counts_what_is_as_wanted_and_other_names_stay(tmp_path: Path) -> None:
    cases = [Case("a", ["seen", "seen"], "first"), Case("a", ["seen", "not seen"]), Case("b", ["traceback"])]
    rows = by_kind("flips", cases, ["seen"])
    assert [(row["what"], row["cases"], row["as_wanted"]) for row in rows] == [("a", 2, 1), ("b", 1, 0)]
    assert (rows[0]["outcomes"], rows[0]["line"]) == ("seen 3; not seen 1", "first")
    file = tmp_path / "results" / "faults.csv"
    write_rows(file, rows, "this")
    write_rows(file, by_kind("torn", cases[:1], ["seen"]), "this")
    write_rows(file, rows[:1], "other")
    with file.open() as opened:
        assert [(row["name"], row["machine"]) for row in csv.DictReader(opened)] == [
            ("torn", "this"),
            ("flips", "other"),
        ]


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
def test_damage_is_damage(tmp_path: Path, how: str) -> None:
    file = tmp_path / "last.pt"
    content = {"format": "acmix", "version": 1, "config": {}, "classes": [], "model": {"weight": torch.ones(2000)}}
    torch.save({**content, DIGEST: digest_of(content)}, file)
    whole = file.read_bytes()
    assert flips.content_is(file, content)
    said = flips.damage(file, random.Random(0), how)
    assert said.startswith(how)
    damaged = file.read_bytes()
    changed = sum(one != other for one, other in zip(damaged, whole[: len(damaged)], strict=True))
    assert (len(damaged) == len(whole), changed) == ((True, 1) if how == "flipped" else (False, 0))
    assert not flips.content_is(file, content)


@posix
def test_a_forked_call_ends_as_a_command_does(tmp_path: Path) -> None:
    def refuse() -> None:
        print("before")
        raise UsageError("this is wrong")

    ended = Forked(refuse, tmp_path / "said").finish()
    assert (ended.status, ended.line, ended.is_traceback) == (2, "acmix: error: this is wrong", False)
    assert "before" in ended.said
    assert Forked(lambda: sys.exit(7), tmp_path / "said").finish().status == 7
    assert Forked(lambda: 1 // 0, tmp_path / "said").finish().is_traceback
    assert Forked(lambda: os.kill(os.getpid(), 9), tmp_path / "said").finish().is_traceback


def test_a_kill_comes_in_the_middle_of_an_epoch() -> None:
    steps = {killed.step_of(random.Random(seed)) for seed in range(200)}
    assert steps == {1, 2, 3, 6, 7, 8, 11, 12, 13}


def test_a_folder_held_elsewhere_names_its_holder(tmp_path: Path) -> None:
    file = os.open(held_elsewhere(tmp_path, silent_for=60), os.O_RDONLY)
    holder = lock.read(file)
    os.close(file)
    assert holder is not None
    assert (holder.host, holder.is_here) == (OTHER_HOST, False)


def test_the_share_is_of_the_steps_between_two_checkpoints() -> None:
    assert share.share_of(0.05, 0.05) == pytest.approx(0.01)
    assert share.lost({"none": [1.0, 2.0], "beside": [1.01, 2.0]}, "beside") == pytest.approx([0.01, 0.0])
    row = share.in_row("small", "beside", 0.02, 0.05, 1.0, "", 3)
    assert (row["as_wanted"], row["cases"]) == (0, 1)
    assert share.in_row("small", "at once", 0.02, 0.05, 1.0, "", 3)["as_wanted"] == 1


def test_an_unknown_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["faults.py", "--only", "fire", "--folder", str(tmp_path)])
    with pytest.raises(UsageError, match="--only fire: no such fault" if sys.platform == "linux" else "Linux"):
        command.main(tmp_path)
