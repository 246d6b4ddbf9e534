"""What the files of a run's weights hold, and starting from one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from acmix.errors import UsageError
from acmix.train.checkpoint import load_weights, read, restore_model
from acmix.train.loop import train
from tests.support.tiny import last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_best_checkpoint_is_the_averaged_weights_without_an_optimizer(finished: Path) -> None:
    best, whole = read(finished / "checkpoints" / "best.pt"), last(finished)
    assert not {"optimizer", "scaler", "average"} & best.keys()
    assert {"optimizer", "scaler", "average", "model"} <= whole.keys()
    restored = restore_model(finished / "checkpoints" / "last.pt").model.state_dict()
    assert all(torch.equal(restored[key], value) for key, value in whole["average"].items())
    assert not torch.equal(whole["model"]["head.fc.weight"], whole["average"]["head.fc.weight"])


def test_a_checkpoint_to_start_from_gives_its_weights_and_may_be_gone_later(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    start = shutil.copy(finished / "checkpoints" / "best.pt", tmp_path / "start.pt")
    tuned = ("train.epochs=1", "optimizer.lr=1e-12", f"model.checkpoint={start}", "train.ema_decay=null")
    settings = tiny_config(data, *tuned, "schedule.warmup_lr=0", "schedule.min_lr=0")
    train(settings, tmp_path / "run")
    ours, theirs = last(tmp_path / "run")["model"], read(start)["model"]
    assert max((ours[key] - theirs[key]).abs().max().item() for key in theirs) < 1e-9
    Path(start).unlink()
    train(settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": 2})}), tmp_path / "run")


def test_weights_that_are_no_tensors_are_refused_in_one_line() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError) as caught:
        load_weights(model, {**model.state_dict(), "bias": 3}, "some.pt")
    assert str(caught.value) == "some.pt holds the weights of another model: 1 no tensors (first: bias)"
