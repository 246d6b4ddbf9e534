"""Several gloo processes act as one: the same weights, the same accuracy, the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acmix.tools.evaluate import evaluate_checkpoint
from acmix.train.loop import train
from tests.support.checks import largest_difference, one_error
from tests.support.images import make_image_folder
from tests.support.processes import command
from tests.support.tiny import CLASSES, PLAIN, last, tiny_config, write_config

pytestmark = pytest.mark.usefixtures("undrawn")
# float32 sums in another order; SGD, as AdamW makes a whole step of a gradient that is all rounding
SAME_WEIGHTS = 1e-6
THREE_STEPS = ("train.epochs=1", *PLAIN, "optimizer.name=sgd", "optimizer.lr=0.1", "schedule.warmup_epochs=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training images: three steps of 8; and 13 validation images, which divide by neither 2 nor 3."""
    root = make_image_folder(
        tmp_path_factory.mktemp("distributed") / "images", CLASSES, train_per_class=6, val_per_class=4, size=40
    )
    for name in ("0001", "0002", "0003"):
        (root / "val" / "class_02" / f"{name}.JPEG").unlink()
    return root


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of 8 images in one process."""
    output = tmp_path_factory.mktemp("distributed") / "alone"
    train(tiny_config(data, *THREE_STEPS, "train.batch_size=8"), output)
    return output


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(data: Path, alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "two"
    config = write_config(tmp_path / "tiny.yaml", data, *THREE_STEPS, "train.batch_size=4")
    ends = command("train", config, "--output", output, processes=2).finish()
    assert [(status, errors) for status, _, errors in ends] == [(0, ""), (0, "")]
    ours, theirs = last(output), last(alone)
    assert ours["step"] == theirs["step"] == 3
    difference = largest_difference(ours["model"], theirs["model"])
    print(f"two processes and one after three steps: largest difference of weights {difference:.2e}")
    assert difference < SAME_WEIGHTS
    # exact though 13 images do not divide: the same hits of the same images
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (alone, output))
    assert (one["top1"], one["top5"], one["processes"]) == (two["top1"], two["top5"], 1)
    assert two["processes"] == 2
    assert ends[0][1].count("epoch 1/1") == 1
    assert ends[1][1] == ""


def test_accumulation_takes_the_steps_of_a_larger_batch(data: Path, alone: Path, tmp_path: Path) -> None:
    train(tiny_config(data, *THREE_STEPS, "train.batch_size=4", "train.accumulation=2"), tmp_path)
    difference = largest_difference(last(tmp_path)["model"], last(alone)["model"])
    print(f"accumulation 2 and batch 2b after three steps: largest difference of weights {difference:.2e}")
    assert difference < SAME_WEIGHTS


@pytest.mark.slow
def test_evaluation_is_exact_on_three_processes_and_leaves_unreadable_images_out(
    data: Path, alone: Path, tmp_path: Path
) -> None:
    # 1 % of the images may be unreadable: 100 good ones and one bad
    images = make_image_folder(tmp_path, CLASSES, train_per_class=1, val_per_class=25, size=40)
    (images / "val" / "class_01" / "torn.JPEG").write_bytes(b"\xff\xd8\xff not a picture")
    checkpoint = alone / "checkpoints" / "best.pt"
    one = evaluate_checkpoint(checkpoint, str(images), workers=0)
    assert one.result.images == 100
    assert [Path(name).name for name in one.unreadable] == ["torn.JPEG"]
    options = ("--data", images, "--batch-size", "7", "--workers", "0", "--json")
    for processes in (2, 3):
        ends = command("evaluate", checkpoint, *options, processes=processes).finish()
        assert [(status, errors) for status, _, errors in ends] == [(0, "")] * processes
        assert [said for _, said, _ in ends[1:]] == [""] * (processes - 1)
        shared = json.loads(ends[0][1])
        assert (shared["images"], shared["top1"], shared["top5"]) == (
            100,
            one.result.metrics["top1"],
            one.result.metrics["top5"],
        )
        assert shared["loss"] == pytest.approx(one.result.loss, rel=1e-6)
        assert shared["unreadable"] == one.unreadable


def blocked(folder: Path, data: Path) -> tuple[Path, str, str]:
    """Only the first process writes."""
    (folder / "file").write_text("in the way")
    return data, str(folder / "file" / "run"), f"cannot write to the output folder {folder / 'file' / 'run'}"


def unreadable(folder: Path, data: Path) -> tuple[Path, str, str]:
    """Only one of the processes reads the empty file."""
    images = make_image_folder(folder / "images", CLASSES, train_per_class=6, val_per_class=1, size=40)
    (images / "train" / "class_00" / "0000.JPEG").write_bytes(b"")
    return images, str(folder / "run"), "1 of the 24 train images are unreadable, over 1%"


def diverging(folder: Path, data: Path) -> tuple[Path, str, str]:
    """One checkpoint is written before."""
    return data, str(folder / "run"), "step 2 (epoch 1) is not finite"


@pytest.mark.parametrize("meet", [blocked, unreadable, diverging])
def test_what_one_process_meets_ends_both_with_one_line_each(
    data: Path, tmp_path: Path, meet: Callable[[Path, Path], tuple[Path, str, str]]
) -> None:
    images, output, said = meet(tmp_path, data)
    lr = "1e30" if meet is diverging else "0.001"
    changes = (f"optimizer.lr={lr}", "schedule.warmup_epochs=0", "train.checkpoint_every_steps=1")
    config = write_config(tmp_path / "tiny.yaml", images, *THREE_STEPS, *changes)
    for status, _, errors in command("train", config, "--output", output, processes=2).finish():
        assert status == 2
        one_error(errors, said)
    if meet is diverging:
        # saved after step 1, and not again after what step 2 brought
        assert last(Path(output))["step"] == 1
