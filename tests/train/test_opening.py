"""The first lines of a run: its batch, its schedule and what of it is trained, in words and as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from acmix.train.loop import train
from acmix.train.opening import peak, shape
from tests.support.tiny import CLASSES, last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")
SHAPE: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
DEIT = (
    "model.name=deit_small_patch16_224",
    "model.args={patch_size: 8, embed_dim: 24, depth: 3, num_heads: 3}",
    "model.add_conv_path=true",
    "train.epochs=1",
    "train.ema_decay=null",
    "schedule.warmup_epochs=0",
)


def first_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return lines[: next(i for i, line in enumerate(lines) if line.startswith("epoch 1/"))]


def test_a_run_begins_with_its_batch_schedule_and_parameters(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ("optimizer.base_batch_size=16", "schedule.warmup_epochs=20", "schedule.warmup_share=0.2", "train.epochs=5")
    train(tiny_config(data, *told, "train.tensorboard=false"), tmp_path)
    chosen, model, images, batch, rate, odd = first_lines(capsys)
    assert chosen.startswith("chosen: fp32 · fused adamw")
    assert model.startswith("acmix_swin_tiny_patch4_window7_224 with depths [1, 1], embed_dim 12, num_heads [1, 2], ")
    assert " · 14,282 parameters, all trained · 1 × " in model
    assert images == "16 training images and 12 to validate on, in 4 classes"
    assert batch == "8 images a step = 4 × 2 accumulation × 1 process · 2 steps × 5 epochs = 10 steps"
    begin = "learning rate 0.002 × 8/16 = 0.001 · cosine · warm-up 2 steps from 2.5e-07 · last step "
    assert rate.startswith(begin)
    assert odd == "warm-up 20 epochs, shortened to 1 of 5 (schedule.warmup_share 0.2)"
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    start, steps = records[0], [record for record in records if record["event"] == "step"]
    assert start["batch"] == dict(images=8, batch_size=4, accumulation=2, processes=1)
    assert start["schedule"]["learning_rate"] == 0.001
    assert (start["schedule"]["warmup_steps"], start["schedule"]["total_steps"]) == (2, 10)
    # what was announced is what was done
    assert start["schedule"]["first_learning_rate"] == steps[0]["lr"]
    assert start["schedule"]["last_learning_rate"] == steps[-1]["lr"]
    assert f"{steps[-1]['lr']:.3g}" == rate.removeprefix(begin)
    assert (start["trained_parameters"], start["frozen_parameters"]) == (14_282, 0)
    assert odd in start["notes"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["schedule.name=step"], "step, × 0.1 every 0.667 epochs"),
        (
            ["schedule.name=step", "schedule.decay_epochs=30", "schedule.decay_factor=0.5"],
            "step, × 0.5 every 30 epochs",
        ),
        (["schedule.name=multistep", "schedule.milestones=[8, 11]"], "multistep, × 0.1 after epochs 8, 11"),
        (["schedule.name=poly", "schedule.power=0.9"], "poly, power 0.9"),
        (["schedule.name=constant"], "constant"),
    ],
)
def test_a_schedule_is_named_with_what_it_reads(overrides: list[str], said: str) -> None:
    assert shape(tiny_config("", *overrides), steps_per_epoch=10) == said


def test_a_learning_rate_is_given_with_its_arithmetic() -> None:
    assert peak(tiny_config("", "optimizer.lr=1e-3", "optimizer.base_batch_size=512"), 32) == (
        "learning rate 0.001 × 32/512 = 6.25e-05"
    )
    assert peak(tiny_config("", "optimizer.lr=1e-3", "optimizer.layer_decay=0.75"), 16) == (
        "learning rate 0.001, not scaled to the batch, × 0.75 a layer towards the image"
    )


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (9, "path parameters and the new classifier head are trained"),
        pytest.param(
            CLASSES,
            "path parameters are trained; the classifier head stays that of the weights",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            None,
            "head are trained; the body is drawn at random and stays so: set model.pretrained=true or",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["other classes", "its classes", "no weights"],
)
def test_what_a_frozen_run_trains_is_said_and_stays_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int | None, said: str
) -> None:
    told = (*DEIT, "model.freeze=true")
    if classes is not None:
        torch.save(
            timm.create_model("deit_small_patch16_224", num_classes=classes, **SHAPE).state_dict(), tmp_path / "w.pth"
        )
        told += (f"model.pretrained={tmp_path / 'w.pth'}",)
    train(tiny_config(data, *told), tmp_path / "run")
    lines = first_lines(capsys)
    assert " trained, " in lines[1]
    assert " frozen" in lines[1]
    assert lines[2].startswith("model.freeze: ")
    assert said in lines[2]
    before = last(tmp_path / "run")
    assert ("head.weight" in before["trained"]) == (classes != CLASSES)
    train(tiny_config(data, *told, "train.epochs=2"), tmp_path / "run")
    assert last(tmp_path / "run")["trained"] == before["trained"]
    moved = {
        key for key, value in last(tmp_path / "run")["model"].items() if not torch.equal(value, before["model"][key])
    }
    assert moved <= set(before["trained"])
    assert ("head.bias" in moved) == (classes != CLASSES)
