"""Runs of detection and segmentation: stopped, killed, shared by processes, begun with a classifier's weights."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from acmix.config import Config, validate
from acmix.errors import UsageError
from acmix.tasks import task_of
from acmix.train.loop import train
from acmix.train.plots import draw_curves, read_log
from acmix.train.signals import Stopped
from acmix.train.starting import start
from tests.support.checks import assert_same_bits
from tests.support.dense import SWIN, dense_config, write_dense_config, write_scenes
from tests.support.images import make_image_folder
from tests.support.processes import command
from tests.support.tiny import last, tiny_config
from tests.support.within import signal_within_step

pytestmark = [pytest.mark.usefixtures("undrawn"), pytest.mark.slow]
TASKS = ("detect", "segment")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scenes")
    return {task: write_scenes(task, root / task) for task in TASKS}


@pytest.fixture(scope="module")
def wholes(scenes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task that nothing interrupted, to be left as it is."""
    root = tmp_path_factory.mktemp("wholes")
    for task in TASKS:
        train(dense_config(task, scenes[task]), root / task)
    return {task: root / task for task in TASKS}


def stopped_at(step: int, config: Config, folder: Path) -> None:
    """Runs until SIGTERM comes within a step, counted from 1."""
    with signal_within_step(step, signal.SIGTERM), pytest.raises(Stopped):
        train(config, folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_tells_the_parts_of_its_loss_and_what_chose_its_best_weights(
    task: str, wholes: dict[str, Path], scenes: dict[str, Path]
) -> None:
    metric = {"detect": "mask_ap", "segment": "miou"}[task]
    summary = json.loads((wholes[task] / "summary.json").read_text())
    assert (summary["task"], summary["best_metric"], summary["epochs"]) == (task, metric, 3)
    log = read_log(wholes[task])
    assert log.metric == metric
    assert summary[metric] == max(record[metric] for record in log.epochs)
    for record in log.steps:
        assert sum(record["losses"].values()) == pytest.approx(record["loss"], rel=1e-4)
    assert len(log.steps[0]["losses"]) == {"detect": 5, "segment": 2}[task]
    assert draw_curves(wholes[task]).stat().st_size > 1000


@pytest.mark.parametrize("task", TASKS)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(
    task: str,
    scenes: dict[str, Path],
    wholes: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = dense_config(task, scenes[task])
    stopped_at(6, config, tmp_path)
    assert last(tmp_path)["step"] == 6
    train(config, tmp_path)
    assert_same_bits(last(tmp_path), last(wholes[task]))
    ours, theirs = (read_log(folder).epochs for folder in (tmp_path, wholes[task]))
    for key in ("train_loss", read_log(tmp_path).metric):
        assert [record[key] for record in ours] == [record[key] for record in theirs]


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_killed_in_an_epoch_go_on_to_the_same_bits(
    task: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    file = write_dense_config(
        tmp_path / "run.yaml", task, scenes[task], "train.accumulation=1", "train.checkpoint_every_steps=1"
    )
    ends = command("train", file, "--output", tmp_path / "whole", processes=2).finish()
    assert [end.status for end in ends] == [0, 0], ends
    parts = tmp_path / "parts"
    processes = command("train", file, "--output", parts, processes=2)
    saved = parts / "checkpoints" / "last.pt"
    processes.wait_for(lambda: saved.is_file() and last(parts)["step"] >= 2)
    processes.signal(signal.SIGKILL)
    processes.finish()
    assert 2 <= last(parts)["step"] < 12
    ends = command("train", file, "--output", parts, processes=2).finish()
    assert [end.status for end in ends] == [0, 0], ends
    assert_same_bits(last(parts), last(tmp_path / "whole"))


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_measure_what_one_does(task: str, scenes: dict[str, Path], wholes: dict[str, Path]) -> None:
    arguments = ("evaluate", wholes[task] / "checkpoints" / "best.pt", "--data", scenes[task], "--json")
    [alone] = command(*arguments).finish()
    first, second = command(*arguments, processes=2).finish()
    assert (alone.status, first.status, second.status, second.output) == (0, 0, 0, "")
    assert json.loads(first.output) == json.loads(alone.output)


@pytest.mark.parametrize("task", TASKS)
def test_a_classifier_s_body_is_taken_and_its_head_named_as_left_out(
    task: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    photos = make_image_folder(tmp_path / "photos", 4, train_per_class=4, val_per_class=2, size=40)
    body = json.dumps(SWIN["args"])
    train(tiny_config(photos, f"model.args={body}", "train.epochs=1"), tmp_path / "classifier")
    checkpoint = tmp_path / "classifier" / "checkpoints" / "best.pt"
    short = (
        "train.steps=1",
        f"model.checkpoint={checkpoint}",
        "optimizer.lr=1e-20",
        "schedule.min_lr=0",
        "optimizer.weight_decay=0",
    )
    train(dense_config(task, scenes[task], *short, "schedule.warmup_steps=0"), tmp_path / "run")
    [start, *_] = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = start["weights"]
    assert {name.split(".")[0] for name in told["left_out"]} >= {"head"}
    assert told["notes"] == [f"{dense_config(task, '').task.head}: pyramid and head are drawn at random"]
    given, found = last(tmp_path / "classifier")["average"], last(tmp_path / "run")["model"]
    key = "layers.1.blocks.0.attn.qkv.weight"
    [place] = [name for name in found if name.endswith(f"features.body.model.{key}")]
    assert torch.allclose(found[place], given[key], atol=1e-12)


def test_a_detector_begins_with_another_s_head_but_for_other_classes(
    scenes: dict[str, Path], wholes: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = wholes["detect"] / "checkpoints" / "best.pt"
    tree = json.loads((scenes["detect"] / "annotations" / "instances_train2017.json").read_text())
    some = [category["id"] for category in tree["categories"][:6]]
    other = tmp_path / "other"
    (other / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (other / split).symlink_to(scenes["detect"] / split)
        tree = json.loads((scenes["detect"] / "annotations" / f"instances_{split}.json").read_text())
        tree["categories"] = [each for each in tree["categories"] if each["id"] in some]
        tree["annotations"] = [each for each in tree["annotations"] if each["category_id"] in some]
        (other / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    config = dense_config("detect", other, "task.num_classes=6", f"model.checkpoint={checkpoint}", "train.steps=1")
    train(config, tmp_path / "run")
    [start, *_] = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    drawn = start["weights"]["drawn"]
    assert all("there" in why for why in drawn.values())
    assert {name.split(".")[0] for name in drawn} == {"roi_heads"}
    with pytest.raises(UsageError, match=r"it was trained with task\.head mask_rcnn, now it would be faster_rcnn"):
        train(dense_config("detect", scenes["detect"], "task.head=faster_rcnn"), wholes["detect"])


def started(folder: Path) -> dict[str, Any]:
    """What a run took of the weights it began with."""
    [start, *_] = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return start["weights"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("wrap", ["", "module.", "state_dict"])
def test_a_plain_state_dict_of_a_whole_model_gives_its_head_too(
    task: str, wrap: str, scenes: dict[str, Path], wholes: dict[str, Path], tmp_path: Path
) -> None:
    given = last(wholes[task])["model"]
    file = tmp_path / "weights.pth"
    torch.save({wrap: given} if wrap == "state_dict" else {wrap + key: value for key, value in given.items()}, file)
    frozen = (
        "train.steps=1",
        "optimizer.lr=1e-20",
        "schedule.min_lr=0",
        "optimizer.weight_decay=0",
        "schedule.warmup_steps=0",
    )
    train(dense_config(task, scenes[task], f"model.checkpoint={file}", *frozen), tmp_path / "run")
    told = started(tmp_path / "run")
    assert (told["drawn"], told["left_out"], len(told["taken"])) == ({}, [], len(given))
    assert told["notes"] == ["the file names no classes: the layers of classes are taken in its order"]
    found = last(tmp_path / "run")["model"]
    for key, value in given.items():
        if value.is_floating_point() and "running" not in key:
            assert torch.allclose(found[key], value, atol=1e-12), key


@pytest.mark.parametrize(("task", "head"), [("detect", "retinanet"), ("segment", "semantic_fpn")])
def test_a_plain_state_dict_with_another_head_gives_the_body_and_says_so(
    task: str, head: str, scenes: dict[str, Path], wholes: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(last(wholes[task])["model"], file)
    arguments = "task.args={channels: 16}"
    short = (f"task.head={head}", arguments, f"model.checkpoint={file}", "train.steps=1")
    train(dense_config(task, scenes[task], *short), tmp_path / "run")
    told = started(tmp_path / "run")
    [note] = [each for each in told["notes"] if each.startswith(head)]
    assert (
        note == f"{head}: pyramid and head are drawn at random; the pyramid and head in {file} are others and "
        "are left out"
    )
    assert any("head" in name for name in told["left_out"])
    assert told["taken"]


@pytest.mark.parametrize("change", ["others", "order"])
@pytest.mark.parametrize("task", TASKS)
def test_layers_of_classes_are_drawn_where_the_file_s_classes_are_others(
    task: str, change: str, scenes: dict[str, Path], wholes: dict[str, Path]
) -> None:
    file = wholes[task] / "checkpoints" / "best.pt"
    names = torch.load(file, weights_only=True)["classes"]
    other = ["new", *names[1:]] if change == "others" else names[::-1]
    config = dense_config(task, scenes[task], f"model.checkpoint={file}")
    told = start(task_of(config).build(), config, other)
    layers = {
        "detect": {"box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"},
        "segment": {"head.classifier.conv", "auxiliary.classifier.conv"},
    }[task]
    assert {name.rpartition(".")[0].removeprefix("roi_heads.") for name in told.drawn} == layers
    reason = "the file's classes are others: 'new'" if change == "others" else "the classes in another order"
    assert all(reason in why for why in told.drawn.values())
    assert start(task_of(config).build(), config, names).drawn == {}
    # who has numbers has no names to compare
    assert start(task_of(config).build(), config, [str(number) for number in range(len(names))]).drawn == {}


def test_a_plain_state_dict_for_other_classes_draws_their_layers_alone(
    scenes: dict[str, Path], wholes: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(last(wholes["detect"])["model"], file)
    config = dense_config("detect", scenes["detect"], "task.num_classes=6", f"model.checkpoint={file}")
    told = start(task_of(config).build(), config, [])
    assert {name.split(".")[-2] for name in told.drawn} == {"cls_score", "bbox_pred", "mask_fcn_logits"}


def test_batch_norms_of_the_network_keep_their_statistics(scenes: dict[str, Path], tmp_path: Path) -> None:
    model = "{name: acmix_resnet26, args: {layers: [1, 1, 1, 1]}}"
    tree = dense_config("segment", scenes["segment"], "train.steps=2", "train.freeze_statistics=true").model_dump()
    tree["model"] = yaml.safe_load(model)
    train(validate(tree), tmp_path)
    weights = last(tmp_path)["model"]
    means = {key: value for key, value in weights.items() if key.endswith("running_mean")}
    kept = {key for key, value in means.items() if not value.any()}
    assert kept == {key for key in means if ".body." in key}
    assert len(kept) < len(means)


def test_label_maps_of_ignored_pixels_alone_end_a_run_after_its_first_epoch(tmp_path: Path) -> None:
    folder = write_scenes("segment", tmp_path / "scenes")
    for file in folder.glob("annotations/training/*.png"):
        Image.new("L", Image.open(file).size).save(file)
    with pytest.raises(UsageError, match=r"the loss was 0 in every step of epoch 1: .* task\.ignore_zero=false"):
        train(dense_config("segment", folder), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_anchors_larger_than_most_objects_are_told_at_the_start(
    scenes: dict[str, Path], wholes: dict[str, Path], tmp_path: Path
) -> None:
    (said,) = (note for note in read_log(wholes["detect"]).start["notes"] if "anchor" in note)
    assert "training objects overlap no anchor by half" in said
    advised = next(word for word in said.split() if word.startswith("task.args.anchor_scale="))
    train(dense_config("detect", scenes["detect"], "train.steps=1", advised), tmp_path)
    assert not [note for note in read_log(tmp_path).start["notes"] if "anchor" in note]
