"""The last checkpoints are kept, and a run goes on from the newest that is whole."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from acmix.errors import UsageError
from acmix.train import checkpoint
from acmix.train.files import make_place, replaced_whole, versions
from acmix.train.loop import Run, train
from acmix.train.writer import Writer, copied
from tests.support.checks import assert_same_bits
from tests.support.tiny import last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")


def torn(file: Path) -> None:
    """Half of the file is gone."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file: Path) -> None:
    """A bit of a weight is another."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_versions_are_kept_as_asked(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "last.pt"
    for number in range(6):
        with replaced_whole(file, keep=keep) as unfinished:
            unfinished.write_text(str(number))
    assert [each.read_text() for each in versions(file)] == [str(5 - age) for age in range(keep)]
    assert len(list(tmp_path.iterdir())) == keep
    # fewer than before
    with replaced_whole(file, keep=1) as unfinished:
        unfinished.write_text("6")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_name_may_be_as_long_as_any(tmp_path: Path) -> None:
    file = tmp_path / ("ä" * 120 + "a" * 10 + ".onnx")
    make_place(file)
    with replaced_whole(file) as unfinished:
        unfinished.write_text("whole")
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_copies_that_a_user_has_made_are_left(tmp_path: Path, keep: int | None) -> None:
    for name in ("found.json", "found-7.json", "found-copy.json", "found-1.txt"):
        (tmp_path / name).write_text("kept")
    if keep is None:
        (tmp_path / "found-1.json").write_text("kept")
    for number in range(3):
        with replaced_whole(tmp_path / "found.json", keep=keep) as unfinished:
            unfinished.write_text(str(number))
    others = {"found-7.json", "found-copy.json", "found-1.txt", *(["found-1.json"] if keep is None else [])}
    assert {path.name for path in tmp_path.iterdir() if path.read_text() == "kept"} == others


def test_a_file_system_without_links_keeps_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    test_as_many_versions_are_kept_as_asked(tmp_path, 3)


@pytest.mark.parametrize("damage", [pytest.param(torn, marks=pytest.mark.slow), flipped])
def test_a_run_goes_on_from_the_one_before_a_damaged_newest(
    forty: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    config = tiny_config(forty, "train.checkpoint_every_steps=3")
    train(config, tmp_path)
    before = last(tmp_path)
    damage(tmp_path / "checkpoints" / "last.pt")
    capsys.readouterr()
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert before["step"] == 10
    assert "going on from last-1.pt, of step 9" in said
    assert ("is truncated" if damage is torn else "is damaged") in said
    assert (tmp_path / "checkpoints" / "damaged-last.pt").is_file()
    assert_same_bits(last(tmp_path), before)
    assert_same_bits(last(tmp_path), last(whole))


def test_where_all_are_damaged_the_run_ends_and_loses_nothing(forty: Path, tmp_path: Path) -> None:
    train(tiny_config(forty), tmp_path)
    for file in versions(tmp_path / "checkpoints" / "last.pt"):
        flipped(file)
    before = {file: file.read_bytes() for file in (tmp_path / "checkpoints").iterdir()}
    with pytest.raises(UsageError, match=r"last\.pt is damaged: .* use another checkpoint") as error:
        train(tiny_config(forty, "train.epochs=3"), tmp_path)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in (tmp_path / "checkpoints").iterdir()} == before


@pytest.mark.parametrize(
    "damage", [pytest.param(Path.unlink, marks=pytest.mark.slow), torn, pytest.param(flipped, marks=pytest.mark.slow)]
)
def test_a_missing_or_damaged_best_is_noticed_and_written_again(
    forty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    train(tiny_config(forty), tmp_path)
    best = tmp_path / "checkpoints" / "best.pt"
    damage(best)
    capsys.readouterr()
    said_of = {Path.unlink: "is gone", torn: "is truncated", flipped: "is damaged"}[damage]
    # a finished run says it, too
    train(tiny_config(forty), tmp_path)
    assert f"best.pt {said_of}" in capsys.readouterr().out
    train(tiny_config(forty, "train.epochs=3"), tmp_path)
    assert "best.pt is gone: the best epoch to come takes its place" in capsys.readouterr().out
    assert checkpoint.read(best)["epoch"] == 3


def test_a_validation_loss_that_is_no_number_names_the_checkpoint_from_before(forty: Path, tmp_path: Path) -> None:
    train(tiny_config(forty, "train.epochs=1"), tmp_path)
    step = last(tmp_path)["step"]
    diverging = ("train.epochs=2", "train.checkpoint_every_steps=1", "train.ema_decay=0.9")
    ruined = Run.evaluate

    def evaluate(run: Run) -> Any:
        with torch.no_grad():
            next(run.state.evaluated_model.parameters()).fill_(float("nan"))
        return ruined(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "evaluate", evaluate)
        with pytest.raises(UsageError) as error:
            train(tiny_config(forty, *diverging), tmp_path)
    # last.pt is of the step whose weights gave it
    assert last(tmp_path)["step"] > step
    assert "last-1.pt is from before it" in str(error.value)


def test_a_step_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_back, plain = threading.Event(), checkpoint.save

    def save(path: Path, contents: Any, **how: Any) -> None:
        assert held_back.wait(60)
        plain(path, contents, **how)

    monkeypatch.setattr(checkpoint, "save", save)
    writer, weight = Writer(), torch.zeros(3)
    writer.write(tmp_path / "last.pt", {"config": {}, "classes": [], "model": {"weight": weight}})
    # the next step
    weight += 1
    assert not (tmp_path / "last.pt").exists()
    held_back.set()
    writer.finish()
    assert torch.equal(checkpoint.read(tmp_path / "last.pt")["model"]["weight"], torch.zeros(3))
    writer.close()


def test_a_write_that_fails_ends_the_run_with_its_cause(forty: Path, tmp_path: Path) -> None:
    def save(path: Path, contents: Any, **how: Any) -> None:
        if path.name == "last.pt" and contents["step"] > 2:
            raise UsageError("cannot write last.pt: No space left on device")
        plain(path, contents, **how)

    plain = checkpoint.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(UsageError, match="No space left on device"):
            train(tiny_config(forty, "train.epochs=100", "train.checkpoint_every_steps=2"), tmp_path)
    # it was noticed before the run's end
    assert last(tmp_path)["step"] == 2


def test_minutes_write_checkpoints_too(forty: Path, tmp_path: Path) -> None:
    written: list[int] = []
    plain = checkpoint.save

    def save(path: Path, contents: Any, **how: Any) -> None:
        written.append(contents["step"])
        plain(path, contents, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        # as if each look at the clock were a minute after the last
        patch.setattr("acmix.train.loop.time.monotonic", count(step=60).__next__)
        train(tiny_config(forty, "train.epochs=1", "train.checkpoint_every_minutes=0.01"), tmp_path)
    assert {*range(1, 6)} <= {*written}


def test_a_copy_shares_nothing() -> None:
    content = {"a": [torch.ones(2), (torch.ones(3), {"b": 1})], "c": "text"}
    other = copied(content)
    other["a"][0] += 1
    other["a"][1][0].zero_()
    other["a"][1][1]["b"] = 2
    assert content["a"][0].tolist() == [1, 1]
    assert content["a"][1][0].tolist() == [1, 1, 1]
    assert content["a"][1][1] == {"b": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    contents = {"config": {}, "classes": [], "model": {"weight": torch.zeros(300_000)}}
    checkpoint.save(file, contents)
    shutil.copy(file, tmp_path / "kept")
    # what is written beside the file goes to a full disk
    (tmp_path / f".last.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UsageError) as error:
        checkpoint.save(file, contents)
    assert str(error.value) == f"cannot write {file}: No space left on device; the checkpoints from before it are whole"
    assert file.read_bytes() == (tmp_path / "kept").read_bytes()
