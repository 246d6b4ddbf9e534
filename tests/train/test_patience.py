"""Early stopping: a run ends where its accuracy has not risen for long enough, stopped and resumed or not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from acmix.data import Batch
from acmix.train.loop import Run, train
from acmix.train.plots import read_log
from acmix.train.signals import Stopped
from tests.support.checks import assert_same_bits
from tests.support.processes import command
from tests.support.tiny import PLAIN, last, tiny_config, write_config

pytestmark = pytest.mark.usefixtures("undrawn")
# weights that do not move measure the same at every epoch: the first is the best one
STILL = ("optimizer.lr=1e-12", "schedule.warmup_lr=0", "schedule.min_lr=0", "train.ema_decay=null", "train.epochs=9")
# two steps an epoch that learn and forget
MOVING = ("optimizer.lr=0.05", "train.epochs=12", "train.patience=2", "train.ema_decay=null")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "ends"),
    [
        (("train.patience=2",), 3),
        (("train.patience=1",), 2),
        # measured after epochs 2, 4, 6, ... alone
        (("train.patience=3", "train.evaluate_every_epochs=2"), 6),
        (("train.patience=1", "train.evaluate_every_epochs=4", "train.checkpoint_every_epochs=5"), 8),
        (("train.patience=8",), 9),
        ((), 9),
    ],
)
def test_a_run_ends_so_many_epochs_after_its_best_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: tuple[str, ...], ends: int
) -> None:
    summary = train(tiny_config(data, *STILL, *told), tmp_path)
    best = 1 if len(told) < 2 else int(told[1][-1])
    early = ends < 9
    assert (summary["epochs"], summary["best_epoch"]) == (ends, best)
    assert summary["ended"] == ("patience" if early else "epochs")
    assert last(tmp_path)["epochs_ended"] == ends
    said = capsys.readouterr().out
    assert (
        f"ended early, after epoch {ends} of 9, with no better top-1 than that of epoch {best} for" in said
    ) == early
    # neither does it go on when it is called again, nor say that it can by more epochs
    again = train(tiny_config(data, *STILL, *told), tmp_path)
    assert again == json.loads((tmp_path / "summary.json").read_text()) == summary
    advice = f"to go on, raise train.{summary['ended']} and add --output "
    assert advice in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_ended_early_goes_on_with_more_patience(data: Path, tmp_path: Path) -> None:
    assert train(tiny_config(data, *STILL, "train.patience=2"), tmp_path)["epochs"] == 3
    assert train(tiny_config(data, *STILL, "train.patience=4"), tmp_path)["epochs"] == 5
    assert train(tiny_config(data, *STILL), tmp_path)["ended"] == "epochs"
    assert [record["epoch"] for record in read_log(tmp_path).epochs] == [*range(1, 10)]


@pytest.mark.parametrize("stopped_in", [2, 4, 5, 6])
@pytest.mark.slow
def test_a_resumed_run_ends_at_the_same_epoch_with_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: int
) -> None:
    whole = train(tiny_config(data, *MOVING), tmp_path / "whole")
    assert whole["ended"] == "patience"
    assert whole["epochs"] >= 3
    plain = Run.take_step

    def take_step(run: Run, batches: list[Batch]) -> float:
        if run.state.step + 1 == stopped_in and not run.first_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(run, batches)

    monkeypatch.setattr(Run, "take_step", take_step)
    with pytest.raises(Stopped):
        train(tiny_config(data, *MOVING), tmp_path / "stopped")
    resumed = train(tiny_config(data, *MOVING), tmp_path / "stopped")
    same = ("epochs", "steps", "top1", "best_epoch", "ended")
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}
    assert_same_bits(last(tmp_path / "whole"), last(tmp_path / "stopped"))


def test_patience_asked_for_within_an_epoch_waits_for_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Run.take_step

    def take_step(run: Run, batches: list[Batch]) -> float:
        if run.state.step + 1 == 7 and not run.first_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(run, batches)

    monkeypatch.setattr(Run, "take_step", take_step)
    with pytest.raises(Stopped):
        train(tiny_config(data, *STILL), tmp_path)
    assert last(tmp_path)["step"] == 7
    summary = train(tiny_config(data, *STILL, "train.patience=1"), tmp_path)
    assert (summary["epochs"], summary["steps"]) == (4, 8)


@pytest.mark.slow
def test_several_processes_end_together(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml", data, *PLAIN, *STILL, "train.patience=2", "train.batch_size=4")
    output = tmp_path / "two"
    ends = command("train", config, "--output", output, processes=2).finish()
    assert [(status, errors) for status, _, errors in ends] == [(0, ""), (0, "")]
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["epochs"], summary["ended"], summary["processes"]) == (3, "patience", 2)
    assert ends[0][1].splitlines()[-1].endswith(f"; ended early, after 3 epochs; results in {output}")
