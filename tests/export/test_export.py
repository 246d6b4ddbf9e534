"""`acmix export`: a file that says the same as the model, to whoever reads it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import acmix
from acmix.cli.commands import app
from acmix.errors import UsageError
from acmix.export import Exported, export
from acmix.tasks import task_of
from acmix.tools.description import read_description
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.predict import predict
from acmix.train import checkpoint
from tests.support.downstream import (
    DIGITS,
    detection_config,
    detection_data,
    segmentation_config,
    segmentation_data,
    write_downstream_run,
)
from tests.support.paths import ROOT
from tests.support.tiny import CLASSES, tiny_config

# exporting takes ten seconds and more
pytestmark = pytest.mark.slow
NAMES = [f"class_{number:02}" for number in range(CLASSES)]


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with drawn weights."""
    config = tiny_config(data)
    torch.manual_seed(0)
    contents = {"config": config.model_dump(mode="json"), "classes": NAMES, "step": 3, "epoch": 1}
    contents |= {
        "metrics": {"top1": 25.0, "top5": 100.0, "val_loss": 1.0},
        "model": task_of(config).build().state_dict(),
    }
    file = tmp_path_factory.mktemp("classifier") / "best.pt"
    checkpoint.save(file, contents)
    return file


@pytest.fixture(scope="module")
def done(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The classifier in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    return {each: export(classifier, folder / f"model.{each}") for each in ("onnx", "pt2")}


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_classifier_says_the_same(classifier: Path, done: dict[str, Exported], format: str, data: Path) -> None:
    made = done[format]
    assert len(made.differences) == 3
    assert max(each.largest for each in made.differences) < 1e-5
    model, info = acmix.load(classifier)
    again, told = acmix.load(made.path)
    assert (told.classes, told.are_named, told.img_size, told.top1) == (NAMES, True, info.img_size, 25.0)
    assert (told.mean, told.std, told.crop_pct) == (info.mean, info.std, info.crop_pct)
    images = torch.randn(3, 3, 40, 48)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)
    pictures = sorted((data / "val" / "class_00").iterdir())[:2]
    for one, other in zip(predict(made.path, pictures), predict(classifier, pictures), strict=True):
        assert [name for name, _ in one.classes] == [name for name, _ in other.classes]
    ours, theirs = (evaluate_checkpoint(file, str(data)) for file in (made.path, classifier))
    assert ours.result.metrics == theirs.result.metrics
    assert ours.result.images == theirs.result.images


def test_whoever_reads_onnx_finds_classes_and_preparation(done: dict[str, Exported], data: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(done["onnx"].path))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == NAMES
    how = json.loads(told["preprocessing"])
    picture = next((data / "val" / "class_01").iterdir())
    side = how["img_size"]
    image = Image.open(picture).convert("RGB").resize((side, side))
    values = (np.asarray(image, np.float32) / 255 - how["mean"]) / how["std"]
    (logits,) = session.run(None, {"images": values.transpose(2, 0, 1)[None].astype(np.float32)})
    assert logits.shape == (1, CLASSES)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_file_tells_nothing_of_the_machine(done: dict[str, Exported], format: str, data: Path) -> None:
    file = done[format].path
    content = file.read_bytes()
    if format == "pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    for hidden in (str(ROOT), str(data), "site-packages"):
        assert hidden.encode() not in content


def test_half_precision_takes_float32_and_half_the_room(
    classifier: Path, done: dict[str, Exported], tmp_path: Path
) -> None:
    half = export(classifier, tmp_path / "half.pt2", precision="fp16")
    assert half.mib < 0.8 * done["pt2"].mib
    assert 1e-6 < max(each.largest for each in half.differences) < 3e-2
    model, _ = acmix.load(half.path)
    assert model(torch.randn(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_detector_with_masks_says_the_same(tmp_path: Path, format: str) -> None:
    pytest.importorskip("faster_coco_eval")
    data = detection_data(tmp_path / "data")
    run = write_downstream_run(tmp_path / "run", detection_config(data), DIGITS, {"box_ap": 1.0, "mask_ap": 1.0})
    made = export(run, tmp_path / f"model.{format}")
    assert sum(each.objects for each in made.differences) > 10
    assert sum(each.lost for each in made.differences) == 0
    picture = next((data / "val2017").glob("*.jpg"))
    [one], [other] = (predict(file, picture, score=0.01) for file in (made.path, run))
    assert [each.name for each in one.objects] == [each.name for each in other.objects]
    for a, b in zip(one.objects, other.objects, strict=True):
        assert a.box == pytest.approx(b.box, abs=1e-2)
        assert a.mask == b.mask
    ours, theirs = (evaluate_checkpoint(file, str(data)) for file in (made.path, run))
    assert ours.result.metrics == pytest.approx(theirs.result.metrics)


def test_a_segmenter_says_the_same(tmp_path: Path) -> None:
    data = segmentation_data(tmp_path / "data")
    names = ["ground", *DIGITS]
    run = write_downstream_run(tmp_path / "run", segmentation_config(data), names, {"miou": 1.0})
    made = export(run, tmp_path / "model.pt2")
    assert max(each.largest for each in made.differences) < 1e-5
    ours, theirs = (evaluate_checkpoint(file, str(data)) for file in (made.path, run))
    assert ours.result.metrics == pytest.approx(theirs.result.metrics, abs=0.1)


def test_the_command_prints_what_it_found(classifier: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["export", str(classifier), str(tmp_path / "a.pt2"), "--time", "--seconds", "0.1"])
    assert said.exit_code == 0, said.output
    assert "largest difference" in said.output
    assert "torch.export program" in said.output
    assert (tmp_path / "a.pt2").is_file()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"destination": "model.txt"}, "ends in .onnx or .pt2"),
    ({"destination": "model.onnx", "format": "pt2"}, "ends in .pt2"),
    ({"destination": "model.onnx", "format": "onx"}, "did you mean 'onnx'"),
    ({"destination": "model.onnx", "precision": "bf16"}, "use fp16"),
    ({"destination": "model.onnx", "precision": "int4"}, "expected fp32"),
    ({"destination": "model.pt2", "opset": 18}, "for the format onnx"),
    ({"destination": "model.onnx", "opset": 99}, "expected 18 to 23"),
    ({"destination": "nowhere/model.onnx"}, "no folder"),
    ({"destination": "model.onnx", "suppress": False}, "no detector"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_cannot_be_meant_is_one_line(classifier: Path, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    given = {**given, "destination": tmp_path / given["destination"]}
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        export(classifier, **given)
    assert not given["destination"].exists()


def test_somebody_elses_file_and_an_export_are_refused(
    classifier: Path, done: dict[str, Exported], tmp_path: Path
) -> None:
    theirs = tmp_path / "notes.pt2"
    theirs.write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="no export"):
        export(classifier, theirs)
    assert theirs.read_text(encoding="utf-8") == "keep"
    with pytest.raises(UsageError, match="an export already"):
        export(done["pt2"].path, tmp_path / "again.pt2")


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("classes", "[1", "damaged description"),
        ("classes", '["a", 3]', "classes"),
        ("task", '"steal"', "task"),
        ("preprocessing", '{"in_chans": 3, "img_size": 100000000}', "preprocessing"),
        ("classes", "[" * 100_000, "damaged description"),
        ("acmix_export", "7", "acmix_export"),
    ],
)
def test_a_damaged_description_is_one_line(done: dict[str, Exported], field: str, text: str, said: str) -> None:
    texts = {**done["pt2"].description.texts(), field: text}
    with pytest.raises(UsageError, match=said):
        read_description(texts, Path("model.onnx"))
    assert read_description({"other": "x"}, Path("model.onnx")) is None
