"""`acmix export`: a file that says the same as the model, to whoever reads it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import acmix
from acmix.cli.commands import app
from acmix.config import Config
from acmix.errors import UsageError
from acmix.export import export
from acmix.export.int8 import to_int8
from acmix.export.qdq import SCOPES, groups_of, known_options
from acmix.export.write import reason
from acmix.tools import slow_convolutions
from acmix.tools.description import read_description
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.exports import Session
from acmix.tools.predict import predict
from acmix.tools.program import read_program
from tests.support.downstream import (
    DIGITS,
    detection_config,
    detection_data,
    segmentation_config,
    segmentation_data,
    write_downstream_run,
)
from tests.support.formats import Formats
from tests.support.paths import ROOT
from tests.support.processes import command
from tests.support.saved import METRICS, NAMES, write_checkpoint
from tests.support.tiny import CLASSES

# exporting takes ten seconds and more
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with drawn weights."""
    return write_checkpoint(tmp_path_factory.mktemp("classifier") / "best.pt", data)


@pytest.fixture(scope="module")
def done(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The classifier in both formats, one of them by the command."""
    folder = tmp_path_factory.mktemp("exported")
    made = export(classifier, folder / "model.onnx")
    assert len(made.differences) == 3
    assert max(each.largest for each in made.differences) < 1e-5
    program = folder / "model.pt2"
    said = CliRunner().invoke(app, ["export", str(classifier), str(program), "--json", "--seconds", "0.1"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert (told["path"], told["format"], told["precision"]) == (str(program), "pt2", "fp32")
    assert max(each["largest"] for each in told["differences"]) < 1e-5
    assert [each["way"] for each in told["times"]] == ["PyTorch", "torch.export program"]
    assert told["times"][1]["ratio"] > 0
    return {"onnx": made.path, "pt2": program}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_nothing(classifier: Path, tmp_path: Path, number: int) -> None:
    folder, scratch = tmp_path / "exported", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "notes.txt").write_text("kept")
    process = command("export", classifier, folder / "model.pt2", TMPDIR=str(scratch))
    # the file is written, to be compared
    process.wait_for(lambda: any(each.stat().st_size for each in folder.glob(".model.pt2.*.tmp")))
    assert [*scratch.iterdir()]
    # as systemd and `timeout` do
    for each in (number, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with suppress(ProcessLookupError):
            process.signal(each)
        time.sleep(0.01)
    [end] = process.finish()
    assert (end.status, end.errors) == (128 + number, "")
    assert [each.name for each in folder.iterdir()] == ["notes.txt"]
    assert not [*scratch.iterdir()]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_classifier_in_16_bits_is_predicted_and_evaluated(
    classifier: Path, precision: str, tmp_path: Path, data: Path
) -> None:
    made = export(classifier, tmp_path / "model.pt2", precision=precision)
    assert max(each.largest for each in made.differences) > 1e-5
    pictures = sorted((data / "val" / "class_00").iterdir())[:3]
    for one, other in zip(predict(made.path, pictures), predict(classifier, pictures), strict=True):
        assert one.error is None
        assert dict(one.classes) == pytest.approx(dict(other.classes), abs=0.02)
    ours, theirs = (evaluate_checkpoint(each, str(data)) for each in (made.path, classifier))
    assert ours.result.loss == pytest.approx(theirs.result.loss, rel=0.02)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_classifier_says_the_same(classifier: Path, done: dict[str, Path], format: str, data: Path) -> None:
    file = done[format]
    model, info = acmix.load(classifier)
    again, told = acmix.load(file)
    assert (told.classes, told.are_named, told.img_size, told.top1) == (NAMES, True, info.img_size, METRICS["top1"])
    assert (told.mean, told.std, told.crop_pct) == (info.mean, info.std, info.crop_pct)
    images = torch.randn(3, 3, 40, 48)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)
    pictures = sorted((data / "val" / "class_00").iterdir())[:2]
    for one, other in zip(predict(file, pictures), predict(classifier, pictures), strict=True):
        assert [name for name, _ in one.classes] == [name for name, _ in other.classes]
    ours, theirs = (evaluate_checkpoint(each, str(data)) for each in (file, classifier))
    assert ours.result.metrics == theirs.result.metrics
    assert ours.result.images == theirs.result.images
    # the file's own number format holds, also where a checkpoint is evaluated in another
    half = evaluate_checkpoint(file, str(data), precision="bf16", device="cpu")
    assert half.result.loss == pytest.approx(ours.result.loss)


def test_whoever_reads_onnx_finds_classes_and_preparation(done: dict[str, Path], data: Path, tmp_path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(done["onnx"]))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == NAMES
    how = json.loads(told["preprocessing"])
    picture = next((data / "val" / "class_01").iterdir())
    wide = tmp_path / "wide.png"
    Image.open(picture).convert("RGB").resize((90, 41)).save(wide)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    [block] = [
        each.partition("```")[0] for each in page.split("```python\n") if 'how["crop_pct"]' in each.partition("```")[0]
    ]
    block = block.replace('"model.onnx"', repr(str(done["onnx"]))).replace('"photos/val/owls/0.jpg"', repr(str(wide)))
    names: dict[str, Any] = {}
    exec(block, names)
    model, info = acmix.load(done["onnx"])
    wanted = model(info.transform(wide)[None])
    assert wanted.shape == (1, CLASSES)
    assert how["crop_pct"] == info.crop_pct
    torch.testing.assert_close(torch.from_numpy(names["logits"]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_classifier_of_one_size_is_written_for_that_size(data: Path, tmp_path: Path, format: str) -> None:
    network = 'model.args={"embed_dim": 12, "depth": 1, "num_heads": 1}'
    source = write_checkpoint(tmp_path / "vit.pt", data, "model.name=vit_tiny_patch16_224", network)
    lines: list[str] = []
    made = export(source, tmp_path / f"model.{format}", tell=lines.append)
    model, info = acmix.load(source)
    side = info.img_size
    assert isinstance(side, int)
    assert [each.shape for each in made.differences] == [(2, side, side), (1, side, side), (3, side, side)]
    assert made.description.fixed_size
    assert any(f"takes images of {side} × {side} alone" in line for line in lines)
    again, _ = acmix.load(made.path)
    images = torch.randn(4, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="alone, not"):
        again(torch.randn(1, 3, side + 16, side))
    [one] = predict(made.path, next((data / "val" / "class_00").iterdir()))
    assert one.classes[0][0] in NAMES
    with pytest.raises(UsageError, match="alone, not"):
        export(source, tmp_path / f"other.{format}", shapes=[(1, 64, 80)])


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_file_tells_nothing_of_the_machine(done: dict[str, Path], format: str, data: Path) -> None:
    file = done[format]
    content = file.read_bytes()
    if format == "pt2":
        with zipfile.ZipFile(file) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    for hidden in (str(ROOT), str(data), "site-packages"):
        assert hidden.encode() not in content


def test_8_bits_are_chosen_by_what_they_lose(
    classifier: Path, done: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "model.onnx"
    shutil.copyfile(done["onnx"], file)
    _, info = acmix.load(classifier)
    described = read_description(Session(file).texts(), file)
    assert described is not None
    described = described.model_copy(update={"precision": "int8"})
    lines: list[str] = []
    made = to_int8(file, info, described, "auto", str(data), tmp_path, lines.append)
    assert {each.group for each in made.quantised.drops} == {*SCOPES} - {"shortcuts"}
    # the file tells what it was measured with, not the checkpoint
    assert acmix.load(file)[1].metrics == made.metrics == made.after.result.metrics
    assert any("s left" in line for line in lines)
    assert made.before.result.images == made.after.result.images > 0
    graph = onnx.load(file)
    onnx.checker.check_model(graph)
    makers = {name: node.op_type for node in graph.graph.node for name in node.output}
    softmaxes = [node for node in graph.graph.node if node.op_type == "Softmax"]
    assert softmaxes
    # masked logits are −∞
    assert all(makers[node.input[0]] != "DequantizeLinear" for node in softmaxes)
    assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    again, told = acmix.load(file)
    assert told.classes == NAMES
    # of the kind that ranges were taken from
    images = torch.stack([info.transform(next((data / "val" / name).iterdir())) for name in NAMES])
    found, wanted = again(images), acmix.load(done["onnx"])[0](images)
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


def on_resnet(config: Config) -> Config:
    """The same over ACmix-ResNet, whose graph is the smaller one."""
    args = {"layers": [1, 1, 1, 1], "width": 8, "heads": 2, "attention_size": 3}
    network = config.model.model_copy(update={"name": "acmix_resnet26", "args": args})
    return config.model_copy(update={"model": network})


@pytest.mark.parametrize(("format", "head"), [("onnx", "mask_rcnn"), ("pt2", "retinanet")])
def test_a_detector_says_the_same(tmp_path: Path, format: str, head: str) -> None:
    pytest.importorskip("faster_coco_eval")
    data = detection_data(tmp_path / "data")
    metrics = {"box_ap": 1.0, **({"mask_ap": 1.0} if head == "mask_rcnn" else {})}
    config = on_resnet(detection_config(data, head))
    run = write_downstream_run(tmp_path / "run", config, DIGITS, metrics)
    made = export(run, tmp_path / f"model.{format}")
    assert sum(each.objects for each in made.differences) > 10
    assert sum(each.lost + each.extra for each in made.differences) == 0
    if format == "onnx":
        # a folded ACmix2d is one module, whose path is its large convolution
        groups = groups_of(pytest.importorskip("onnx").load(made.path))
        assert (len(groups["conv path"]), len(groups["shortcuts"])) == (4, 4)
    with pytest.raises(UsageError, match="an export already"):
        export(made.path, tmp_path / "again.pt2")
    picture = next((data / "val2017").glob("*.jpg"))
    [one], [other] = (predict(file, picture, score=0.01) for file in (made.path, run))
    assert [each.name for each in one.objects] == [each.name for each in other.objects]
    for a, b in zip(one.objects, other.objects, strict=True):
        assert a.box == pytest.approx(b.box, abs=1e-2)
        assert (a.mask is None) == (b.mask is None)
        if a.mask is not None:
            assert np.mean(a.mask == b.mask) > 0.99
    ours, theirs = (evaluate_checkpoint(file, str(data)) for file in (made.path, run))
    assert ours.result.metrics == pytest.approx(theirs.result.metrics)
    half = evaluate_checkpoint(made.path, str(data), precision="bf16", device="cpu")
    assert half.result.metrics == pytest.approx(ours.result.metrics)


def test_a_segmenter_in_half_precision_says_nearly_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = segmentation_data(tmp_path / "data")
    names = ["ground", *DIGITS]
    run = write_downstream_run(tmp_path / "run", on_resnet(segmentation_config(data)), names, {"miou": 1.0})
    made = export(run, tmp_path / "model.pt2", precision="fp16")
    assert 1e-6 < max(each.largest for each in made.differences) < 3e-2
    model, _ = acmix.load(made.path)
    # as on most processors, which have no kernels for convolutions in fp16
    monkeypatch.setattr(slow_convolutions, "has_kernels", lambda dtype: dtype.itemsize > 2)
    images = torch.randn(1, 3, 64, 64)
    # the first call looks how much memory it will take
    model(images)
    with torch.inference_mode(), Formats() as formats:
        assert model(images).dtype == torch.float32
    assert set(formats.seen) == {torch.float32}
    ours, theirs = (evaluate_checkpoint(file, str(data)) for file in (made.path, run))
    assert ours.result.metrics == pytest.approx(theirs.result.metrics, abs=1)
    half = evaluate_checkpoint(made.path, str(data), precision="bf16", device="cpu")
    assert half.result.metrics == ours.result.metrics


PREPARED = (
    '{"in_chans": 3, "img_size": 32, "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], '
    '"interpolation": "bicubic", "crop_pct": 1}'
)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"destination": "model.txt"}, "ends in .onnx or .pt2"),
    ({"destination": "model.onnx", "format": "pt2"}, "ends in .pt2"),
    ({"destination": "model.onnx", "format": "onx"}, "did you mean 'onnx'"),
    ({"destination": "model.onnx", "precision": "bf16"}, "use fp16"),
    ({"destination": "model.onnx", "precision": "int4"}, "expected fp32"),
    ({"destination": "model.pt2", "opset": 18}, "for the format onnx"),
    ({"destination": "model.onnx", "opset": 99}, "expected 18 to 23"),
    ({"destination": "nowhere/model.onnx"}, "no folder"),
    ({"destination": "model.onnx", "int8": "auto"}, "needs --data"),
    ({"destination": "model.onnx", "int8": "aut", "data": "."}, "did you mean 'auto'"),
    ({"destination": "model.onnx", "data": "."}, "is for --int8"),
    ({"destination": "model.pt2", "int8": "all", "data": "."}, "is for the format onnx"),
    ({"destination": "model.onnx", "int8": "all", "data": "nowhere"}, "nowhere"),
    ({"destination": "model.onnx", "suppress": False}, "no detector"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_cannot_be_meant_is_one_line(classifier: Path, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    given = {**given, "destination": tmp_path / given["destination"]}
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        export(classifier, **given)
    assert not given["destination"].exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_asked_for_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    # Python's own way to say that there is none
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs {package}; run pip install"):
        export(tmp_path / "no.pt", tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="there is no checkpoint"):
        export(tmp_path / "no.pt", tmp_path / "model.pt2")


def test_int8_asks_no_reader_that_a_checkpoint_names(tmp_path: Path, data: Path) -> None:
    foreign = write_checkpoint(tmp_path / "foreign.pt", data, "data.format=hfds/nobody/evil")
    with pytest.raises(UsageError, match="may read from a network; leave --int8 out"):
        export(foreign, tmp_path / "model.onnx", int8="all", data=str(data))


def test_older_onnxruntimes_get_the_options_that_they_know() -> None:
    def older(source: str, *, per_channel: bool = False) -> None:
        del source, per_channel

    assert known_options(older, per_channel=True, calibration_cache_path="x") == {"per_channel": True}


def test_int8_alone_stands_before_the_file_too(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["export", str(tmp_path / "no.pt"), "--int8", str(tmp_path / "model.onnx")])
    # the file is known for the one to write
    assert "there is no checkpoint" in str(said.exception)


def test_an_earlier_export_is_replaced_and_a_link_to_it_stays(
    classifier: Path, done: dict[str, Path], tmp_path: Path
) -> None:
    earlier, link = tmp_path / "earlier.pt2", tmp_path / "link.pt2"
    earlier.write_bytes(done["pt2"].read_bytes()[:-1])
    link.symlink_to(earlier.name)
    assert export(classifier, link).path == link
    assert link.is_symlink()
    assert zipfile.is_zipfile(earlier)
    assert {each.name for each in tmp_path.iterdir()} == {"earlier.pt2", "link.pt2"}


def test_the_first_cause_is_the_reason() -> None:
    report = RuntimeError("an error report was written")
    report.__cause__ = ValueError("the image is too small\nand more")
    assert reason(report) == "the image is too small"
    assert reason(KeyError()) == "KeyError"


def test_somebody_elses_file_and_an_export_are_refused(classifier: Path, done: dict[str, Path], tmp_path: Path) -> None:
    for theirs in (tmp_path / "notes.pt2", tmp_path / "notes.onnx"):
        theirs.write_text("keep", encoding="utf-8")
        with pytest.raises(UsageError, match="no export"):
            export(classifier, theirs)
        assert theirs.read_text(encoding="utf-8") == "keep"
    with pytest.raises(UsageError, match="an export already"):
        export(done["pt2"], tmp_path / "again.pt2")


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("classes", "[1", "damaged description"),
        ("classes", '["a", 3]', "classes"),
        ("task", '"steal"', "task"),
        ("preprocessing", '{"in_chans": 3, "img_size": 100000000}', "preprocessing"),
        ("classes", "[" * 100_000, "damaged description"),
        ("acmix_export", "7", "acmix_export"),
        ("preprocessing", PREPARED.replace("bicubic", "foo"), "interpolation"),
        ("preprocessing", PREPARED.replace("[0.5, 0.5, 0.5]", "[0.5, 0.5]"), "2 mean"),
        ("preprocessing", PREPARED.replace("[1, 1, 1]", "[0, 1, 1]"), "std"),
    ],
)
def test_a_damaged_description_is_one_line(done: dict[str, Path], field: str, text: str, said: str) -> None:
    texts = {**read_program(done["pt2"])[2], field: text}
    with pytest.raises(UsageError, match=said):
        read_description(texts, Path("model.onnx"))
    assert read_description({"other": "x"}, Path("model.onnx")) is None
