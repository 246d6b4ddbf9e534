"""A run may be so many steps long, wherever in an epoch they end, and goes on where there are to be more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from acmix.train.length import end_of_epoch, epochs_begun, length_in_epochs, total_steps
from acmix.train.loop import train
from tests.support.tiny import last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")


def test_steps_count_in_place_of_epochs() -> None:
    by_epochs, by_steps = tiny_config("", "train.epochs=2"), tiny_config("", "train.epochs=2", "train.steps=13")
    assert [total_steps(each, 5) for each in (by_epochs, by_steps)] == [10, 13]
    assert [epochs_begun(each, 5) for each in (by_epochs, by_steps)] == [2, 3]
    assert [length_in_epochs(each, 5) for each in (by_epochs, by_steps)] == [2, 2.6]
    assert [end_of_epoch(by_steps, 5, epochs) for epochs in (1, 2, 3)] == [5, 10, 13]


def test_a_run_of_steps_ends_with_the_last_one_and_is_evaluated_there(forty: Path, tmp_path: Path) -> None:
    summary = train(tiny_config(forty, "train.steps=7", "schedule.name=poly"), tmp_path)
    assert (summary["steps"], summary["epochs"], summary["ended"]) == (7, 2, "steps")
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(each["epoch"], each["step"]) for each in records if each["event"] == "epoch"] == [(1, 5), (2, 7)]
    assert records[0]["schedule"]["total_steps"] == 7
    rates = [each["lr"] for each in records if each["event"] == "step"]
    assert rates[-1] == pytest.approx(records[0]["schedule"]["last_learning_rate"])
    assert rates[-1] < rates[-2]


@pytest.mark.slow
def test_more_steps_go_on_inside_the_epoch_that_was_cut_short(forty: Path, tmp_path: Path) -> None:
    constant = "schedule.name=constant"
    train(tiny_config(forty, "train.steps=9", constant), tmp_path / "whole")
    train(tiny_config(forty, "train.steps=7", constant), tmp_path / "parts")
    assert train(tiny_config(forty, "train.steps=9", constant), tmp_path / "parts")["steps"] == 9
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert all(torch.equal(parts["model"][key], value) for key, value in whole["model"].items())
    assert parts["epochs_ended"] == whole["epochs_ended"] == 2
