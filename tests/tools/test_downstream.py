"""What a training of a detector or a segmenter leaves is loaded, used, measured and compared by the same commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import acmix
from acmix.errors import UsageError
from acmix.tools.compare import compare
from acmix.tools.convert import convert
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.load import info_of
from acmix.tools.predict import predict
from acmix.train import checkpoint
from tests.support.checks import one_error
from tests.support.downstream import (
    DIGITS,
    detection_config,
    detection_data,
    segmentation_config,
    segmentation_data,
    write_downstream_run,
)

AP = {"box_ap": 4.0, "box_ap50": 9.0, "mask_ap": 3.0}
IOU = {"miou": 7.0, "mean_accuracy": 8.0, "pixel_accuracy": 90.0}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detection_data(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmentation_data(tmp_path_factory.mktemp("ade") / "ade")


@pytest.fixture(scope="module")
def detector(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_downstream_run(tmp_path_factory.mktemp("runs") / "detector", detection_config(coco), DIGITS, AP)


@pytest.fixture(scope="module")
def segmenter(ade: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["ground", *DIGITS]
    return write_downstream_run(tmp_path_factory.mktemp("runs") / "segmenter", segmentation_config(ade), names, IOU)


def test_a_detector_is_loaded_with_what_goes_with_it(detector: Path, coco: Path) -> None:
    model, info = acmix.load(detector, device="cpu")
    assert (info.task, info.head, info.classes, info.metrics) == ("detect", "mask_rcnn", DIGITS, AP)
    assert (info.img_size, info.in_chans, info.top1, info.epoch) == (48, 3, None, 2)
    assert not model.training
    file = sorted((coco / "val2017").iterdir())[0]
    image = info.transform(file)
    with Image.open(file) as picture:
        assert image.shape == (3, picture.height, picture.width)
        expected = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    with torch.inference_mode():
        [answer] = model([image])
    [found] = predict(model, file, score=0)
    assert len(found.objects) == len(answer["scores"]) > 0
    assert np.allclose(np.sort(found.scores), np.sort(answer["scores"].numpy()))
    assert found.masks is not None
    assert found.masks.sum() == int((answer["masks"] > 0.5).sum())
    assert info_of(acmix.fold(model)) == info


def test_a_segmenter_is_loaded_with_what_goes_with_it(segmenter: Path, ade: Path) -> None:
    model, info = acmix.load(segmenter, device="cpu")
    assert (info.task, info.head, len(info.classes), info.metrics) == ("segment", "semantic_fpn", 11, IOU)
    file = sorted((ade / "images" / "validation").iterdir())[0]
    [found] = predict(model, file)
    with Image.open(file) as picture:
        assert found.labels.shape == (picture.height, picture.width)
    with torch.inference_mode():
        logits = model(info.transform(file)[None])  # (1, K, h, w)
    small = logits[0].argmax(0).numpy()
    height, width = small.shape
    rows, columns = (
        np.arange(side) * whole // side for side, whole in zip(found.labels.shape, small.shape, strict=True)
    )
    assert (small[rows][:, columns] == found.labels).mean() > 0.9
    assert min(height, width) == 48


def test_the_command_draws_what_a_run_finds(acmix: Any, detector: Path, coco: Path, tmp_path: Path) -> None:
    status, said, errors = acmix(
        "predict", detector, coco / "val2017", "--output", tmp_path / "drawn", "--score", "0.01"
    )
    assert (status, said) == (0, f"4 images; drawn in: {tmp_path / 'drawn'}\n")
    assert errors == f"model: {detector / 'checkpoints' / 'best.pt'} (epoch 2, box AP 4.00, mask AP 3.00)\n"
    assert len(list((tmp_path / "drawn").iterdir())) == 4
    status, said, _ = acmix("predict", detector, coco / "val2017", "--json")
    rows = json.loads(said)
    assert {row["category"] for row in rows} <= set(DIGITS)
    assert {row["image_id"] for row in rows} == {path.name for path in (coco / "val2017").iterdir()}


def test_evaluate_prints_the_twelve_lines_and_the_table_by_class(acmix: Any, detector: Path, coco: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    status, said, _ = acmix("evaluate", detector, "--data", coco)
    assert status == 0
    lines = said.splitlines()
    assert lines[0].startswith("mask_rcnn on acmix_swin_tiny_patch4_window7_224: box AP ")
    assert lines[0].endswith("4 images")
    assert sum(line.startswith(" Average ") for line in lines) == 24
    head = next(place for place, line in enumerate(lines) if line.split()[:2] == ["class", "objects"])
    assert [line.split()[0] for line in lines[head + 1 : head + 11]] == DIGITS
    told = json.loads(acmix("evaluate", detector, "--data", coco, "--json")[1])
    assert list(told["by_class"]) == DIGITS
    assert {"box_ap", "box_ap_small", "mask_ar100", "images"} <= set(told)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_evaluate_takes_a_split_of_another_name(
    task: str, acmix: Any, detector: Path, segmenter: Path, coco: Path, ade: Path, tmp_path: Path
) -> None:
    run, data = (detector, coco) if task == "detect" else (segmenter, ade)
    other = shutil.copytree(data, tmp_path / "other")
    places = ["val2017"] if task == "detect" else ["images/validation", "annotations/validation"]
    for place in places:
        (other / place).rename((other / place).parent / "held out")
    if task == "detect":
        (other / "annotations/instances_val2017.json").rename(other / "annotations/instances_held out.json")
    status, _, errors = acmix("evaluate", run, "--data", other)
    assert status == 2
    one_error(errors, "with acmix evaluate: --split")
    told = acmix("evaluate", run, "--data", other, "--split", "held out", "--json")
    assert told == acmix("evaluate", run, "--data", data, "--json")
    assert told[0] == 0


def test_a_split_that_is_named_goes_before_held_out_images(detector: Path, coco: Path, tmp_path: Path) -> None:
    contents = torch.load(detector / "checkpoints" / "best.pt", weights_only=True)
    contents["config"]["data"] |= {"split": 0.5, "val_split": "val"}
    checkpoint.save(tmp_path / "held.pt", contents)
    one = evaluate_checkpoint(tmp_path / "held.pt", str(coco), split="val2017", device="cpu")
    other = evaluate_checkpoint(detector, str(coco), device="cpu")
    assert (one.result.metrics, one.notes) == (other.result.metrics, other.notes)


@pytest.mark.slow
def test_evaluate_of_a_segmenter_takes_scales_flip_and_windows(acmix: Any, segmenter: Path, ade: Path) -> None:
    status, said, _ = acmix("evaluate", segmenter, "--data", ade)
    lines = said.splitlines()
    assert status == 0
    assert lines[0].startswith("semantic_fpn on acmix_swin_tiny_patch4_window7_224: mIoU ")
    head = next(place for place, line in enumerate(lines) if line.split()[0] == "class")
    assert [line.split()[0] for line in lines[head + 1 : head + 12]] == ["ground", *DIGITS]
    plain = evaluate_checkpoint(segmenter, str(ade)).result.metrics
    options: list[dict[str, Any]] = [{"scales": (0.5, 1)}, {"flip": True}, {"sliding": True}]
    several = [evaluate_checkpoint(segmenter, str(ade), **each).result.metrics for each in options]
    assert all(metrics != plain for metrics in several)
    assert evaluate_checkpoint(segmenter, str(ade), scales=(1,)).result.metrics == plain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["evaluate", "{detector}", "--data", "{coco}", "--flip"],
            "--flip is for segmentation, and this model is a detector",
        ),
        (["evaluate", "{segmenter}", "--data", "{ade}", "--scales", "1,x"], "--scales 1,x: expected numbers"),
        (["evaluate", "{segmenter}", "--data", "{ade}", "--scales", "1,0"], "--scales 0: expected factors above 0"),
        (["evaluate", "{segmenter}", "--data", "{ade}", "--scales", "99"], "--scales 99: expected factors above 0"),
        (["predict", "{segmenter}", "{ade}", "--score", "0.5"], "--score 0.5 is for detectors"),
        (
            ["predict", "{detector}", "{coco}", "--top", "2"],
            "--top 2 is for classifiers, and this model detects objects",
        ),
        (["predict", "{detector}", "{coco}", "--img-size", "64"], "img_size and classes are for exports"),
    ],
)
def test_options_of_another_task_are_one_line(
    acmix: Any, detector: Path, segmenter: Path, coco: Path, ade: Path, arguments: list[str], said: str
) -> None:
    places = {"detector": detector, "segmenter": segmenter, "coco": coco, "ade": ade}
    status, _, errors = acmix(*[argument.format(**places) for argument in arguments])
    assert status == 2
    one_error(errors, said)


@pytest.mark.slow
def test_rates_are_named_by_their_blocks(acmix: Any, detector: Path) -> None:
    status, said, _ = acmix("rates", detector / "checkpoints" / "best.pt")
    assert status == 0
    assert [line.split()[0] for line in said.splitlines()[2:6]] == [
        f"layers.{stage}.blocks.0.attn" for stage in range(4)
    ]


def test_runs_are_compared_by_their_own_metric(detector: Path, segmenter: Path, coco: Path, tmp_path: Path) -> None:
    boxes = detection_config(coco, "faster_rcnn")
    other = write_downstream_run(tmp_path / "boxes", boxes, DIGITS, {"box_ap": 6.0, "box_ap50": 8.0})
    found = compare([detector, other])
    head, rows = found.figures()
    assert head[:6] == ["#", "run", "box AP %", "− #1, points", "box AP50 %", "mask AP %"]
    assert [row[2:6] for row in rows] == [["4.00", "–", "9.00", "3.00"], ["6.00", "+2.00", "8.00", "–"]]
    assert "The noise of a difference of box AP is not known" in found.notes[0]
    assert found.as_json()["runs"][1]["box_ap"] == 6
    mixed = compare([detector, segmenter])
    assert (mixed.metric, mixed.differences) == ("", [None, None])
    assert "no measure in common" in mixed.notes[0]
    assert mixed.figures()[1][1][2:] != []


def test_a_detector_is_converted_to_safetensors_and_to_nothing_of_the_released_code(
    detector: Path, tmp_path: Path
) -> None:
    best = detector / "checkpoints" / "best.pt"
    with pytest.raises(UsageError, match=r"holds mask_rcnn on acmix_swin_.*, but the released code has classifiers"):
        convert(best, tmp_path / "x.pth")
    done = convert(best, tmp_path / "x.safetensors")
    assert "our weights as safetensors, mask_rcnn on acmix_swin_tiny_patch4_window7_224, 10 classes, " in done.summary
    model, info = acmix.load(tmp_path / "x.safetensors", device="cpu")
    assert (info.task, info.head, info.classes, info.metrics) == ("detect", "mask_rcnn", DIGITS, AP)
    expected = acmix.load(best, device="cpu")[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
