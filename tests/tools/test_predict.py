"""Predictions as data and as the command prints and writes them."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.tools import predict_classes as module
from acmix.tools.load import load
from acmix.tools.predict import Prediction, predict, stream
from acmix.train.loop import train
from tests.support.checks import one_error
from tests.support.tiny import CLASSES, tiny_config


@pytest.fixture(scope="module")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predict") / "run"
    train(tiny_config(data, "train.epochs=1"), output)
    return output


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Any:
    return load(run_folder, device="cpu")[0]


@pytest.fixture(scope="module")
def files(data: Path) -> list[str]:
    return sorted(map(str, (data / "val").rglob("*.JPEG")))


def test_a_prediction_is_the_softmax_of_the_evaluated_picture(model: Any, files: list[str]) -> None:
    _, info = model, model.acmix_info
    with torch.inference_mode():
        expected = model(info.transform(files[0])[None])[0].softmax(0)
    [found] = acmix.predict(model, files[0], CLASSES + 7)
    assert found.image == files[0]
    assert found.error is None
    assert len(found.classes) == CLASSES
    for name, probability in found.classes:
        assert probability == pytest.approx(expected[info.classes.index(name)].item(), abs=1e-6)
    assert [value for _, value in found.classes] == sorted((value for _, value in found.classes), reverse=True)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (5, 3), (100, 2)])
def test_batches_and_threads_change_nothing(
    model: Any, data: Path, files: list[str], batch_size: int, workers: int
) -> None:
    expected = predict(model, files, 1, batch_size=4, workers=1)
    found = predict(model, data / "val", 1, batch_size=batch_size, workers=workers)
    assert [one.image for one in found] == files
    assert [one.classes[0][0] for one in found] == [one.classes[0][0] for one in expected]
    assert [one.classes[0][1] for one in found] == pytest.approx([one.classes[0][1] for one in expected], abs=1e-5)


def test_images_may_be_of_any_kind(model: Any, data: Path, files: list[str]) -> None:
    image = Image.open(files[0])
    array = np.asarray(image)
    [expected] = predict(model, files[0], 1)
    prepared = model.acmix_info.transform(files[0])
    given = [Path(files[0]), Path(files[0]).read_bytes(), image, array, array.transpose(2, 0, 1), prepared]
    given[4] = torch.from_numpy(np.ascontiguousarray(given[4]))
    found = predict(model, given, 1)
    assert [one.classes for one in found] == [expected.classes] * 6
    assert [one.image for one in found] == [files[0], "image 1", files[0], "image 3", "image 4", "image 5"]
    assert len(predict(model, torch.stack([prepared] * 3))) == 3
    assert len(predict(model, np.stack([array] * 2))) == 2
    assert predict(model, []) == []
    assert len(predict(model, (file for file in files[:2]))) == 2
    # two sizes of prepared images in one batch
    assert len(predict(model, [prepared, torch.zeros(3, 40, 40), prepared])) == 3


def test_any_form_of_the_model_predicts_with_its_names(run_folder: Path, model: nn.Module, files: list[str]) -> None:
    [expected] = predict(model, files[0], 1)
    forms = [run_folder, str(run_folder / "checkpoints" / "best.pt"), (model, model.acmix_info), acmix.fold(model)]
    for form in [*forms, nn.DataParallel(model), load(run_folder)[0].bfloat16(), load(run_folder)[0].half()]:
        [found] = predict(form, files[0], 1)
        assert found.classes[0][0] == expected.classes[0][0]
        assert found.classes[0][1] == pytest.approx(expected.classes[0][1], abs=5e-3)


def test_a_model_of_timm_numbers_its_classes_and_keeps_its_mode(files: list[str]) -> None:
    ours: Any = acmix.create_model("acmix_resnet26", num_classes=7, width=4).train()
    ours.fc.eval()
    for model in (ours, timm.create_model("resnet10t", num_classes=7, in_chans=1).train()):
        [found] = predict(model, files[0], 9)
        assert {name for name, _ in found.classes} == set("0123456")
        assert model.training
    assert not ours.fc.training
    wide = timm.create_model("resnet10t", num_classes=7, in_chans=4)
    with pytest.raises(UsageError, match="it reads 4 channels"):
        predict(wide, files[0])
    assert len(predict(wide, torch.zeros(2, 4, 32, 32))) == 2
    with pytest.raises(UsageError, match="it has no pretrained_cfg"):
        predict(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), files[0])


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(model: Any, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    given = [files[0], tmp_path / "bad.png", tmp_path / "absent.png", tmp_path / "empty", b"x", f"{tmp_path}/*.gif"]
    found = predict(model, [*given, files[1]], 1, batch_size=2)
    assert [one.error is None for one in found] == [True, *[False] * 5, True]
    for one, said in zip(
        found[1:-1],
        ("not an image in a known format", "no such file", "holds no images", "in memory", "no image fits it"),
        strict=True,
    ):
        assert said in str(one.error)


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        ([], {"top": 0}, "top 0: expected at least 1"),
        ([], {"batch_size": 0}, "batch-size 0"),
        ([], {"workers": -1}, "workers -1"),
        (np.zeros((4, 4, 3)), {}, "array of float64; expected uint8"),
        (np.zeros((3, 4, 5), np.uint8), {}, r"array \[3, 4, 5\]"),
        (torch.zeros(4, 4), {}, r"a tensor \[4, 4\]; expected \(in_chans, h, w\)"),
        (7, {}, "a picture is a int; expected a path"),
    ],
)
def test_wrong_use_is_an_error_of_one_line(model: Any, images: object, options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        predict(model, images, **options)


def test_a_model_that_gives_no_numbers_or_no_logits_is_told(model: Any, files: list[str]) -> None:
    broken: Any
    broken, _ = load(model.acmix_info.source)
    broken.head.fc.weight.data.fill_(torch.nan)
    assert "no finite numbers" in str(predict(broken, files[0])[0].error)
    with pytest.raises(UsageError, match=r"gives \[1, 3, 8, 8\] for 1 images; expected logits"):
        predict(nn.Identity(), torch.zeros(3, 8, 8))
    with pytest.raises(UsageError, match="predict got a dict"):
        predict({}, files[0])  # type: ignore[arg-type]


def test_ten_thousand_images_take_no_more_memory_than_two_batches(model: Any, files: list[str]) -> None:
    alive = 0
    most = 0

    class Counted(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def names():
        nonlocal alive, most
        for number in range(10_000):
            alive += 1
            most = max(most, alive)
            yield Counted(f"absent {number}.png")

    assert sum(one.error is not None for one in stream(model, names(), batch_size=16)) == 10_000
    assert most <= 5 * 16


def test_the_filters_of_warnings_are_left_as_they_were(model: Any, files: list[str]) -> None:
    import warnings

    before = list(warnings.filters)
    for _ in stream(model, files, batch_size=2):
        assert warnings.filters == before


def ended(acmix, *arguments: object) -> tuple[int, str, str]:
    return acmix("predict", *arguments)


def test_the_command_takes_run_folders_folders_and_patterns(
    acmix, run_folder: Path, data: Path, files: list[str]
) -> None:
    status, said, errors = ended(acmix, run_folder, data / "val", "--top", "1")
    assert status == 0
    assert said.splitlines()[::2] == files
    assert errors.startswith(f"model: {run_folder / 'checkpoints' / 'best.pt'} (epoch 1, top-1 ")
    status, said, _ = ended(acmix, run_folder, f"{data}/val/**/0000.JPEG", files[1], "--json", "--batch-size", "3")
    assert status == 0
    assert [json.loads(line)["image"] for line in said.splitlines()] == [*files[::3], files[1]]


def test_the_command_reads_paths_from_standard_input(
    acmix, run_folder: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"odd \xff.JPEG")
    odd.write_bytes(Path(files[0]).read_bytes())
    lines = os.fsencode(f"{files[0]}\r\n\n{odd}\n{files[2]}")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    status, said, _ = ended(acmix, run_folder, files[1], "-", "--top", "1")
    assert status == 0
    assert said.splitlines()[::2] == [files[1], files[0], f"{tmp_path}/odd \\xff.JPEG", files[2]]


def test_the_command_writes_a_table_or_json_lines(acmix, run_folder: Path, files: list[str], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b'a, "b"\n\xff.JPEG')
    odd.write_bytes(Path(files[0]).read_bytes())
    for name in ("new/found.csv", "found.jsonl"):
        output = tmp_path / name
        status, said, errors = ended(acmix, run_folder, files[0], odd, "absent.png", "--top", "2", "--output", output)
        assert (status, said) == (2, f"3 images, 1 of them unreadable; written: {output}\n")
        assert "acmix: error: cannot read image absent.png: no such file" in errors
    with open(tmp_path / "new/found.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert [row["image"] for row in rows] == [files[0], f'{tmp_path}/a, "b"\n\\xff.JPEG', "absent.png"]
    assert rows[0]["class_1"] == rows[1]["class_1"] == acmix_top(run_folder, files[0]).classes[0][0]
    assert (rows[2]["class_1"], "no such file" in rows[2]["error"]) == ("", True)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["error"] is None for line in lines] == [True, True, False]
    assert [line["classes"][0][0] for line in lines[:2]] == [rows[0]["class_1"]] * 2


def acmix_top(source: Path, file: str) -> Prediction:
    return predict(source, file, 1)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["{run}", "{image}", "--output", "x.txt"],
            "--output x.txt: expected a file whose name ends in .csv or .jsonl",
        ),
        (["{run}", "{image}", "--output", "x.csv", "--json"], "use one of them"),
        (["{run}", "{image}", "--device", "gpu"], "device 'gpu' is unknown"),
        (["{run}", "{image}", "--batch-size", "0"], "--batch-size"),
        (["{run}", "{image}", "--img-size", "64"], "img_size and classes are for exports"),
        (["{image}", "{image}"], "is truncated or not a checkpoint"),
        (["{folder}", "{image}"], "is no run folder"),
        (["{run}", "{folder}"], "holds no images; give one that does, or files"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    acmix, run_folder: Path, files: list[str], tmp_path: Path, monkeypatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    places = {"run": run_folder / "checkpoints" / "best.pt", "image": files[0], "folder": tmp_path / "folder"}
    status, _, errors = ended(acmix, *[argument.format(**places) for argument in arguments])
    assert status == 2
    one_error(errors, said)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_is_whole_or_not_there(acmix, run_folder: Path, files: list[str], tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "found.csv"
    output.write_text("old")
    monkeypatch.setattr(module, "classified", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, _ = ended(acmix, run_folder, files[0], "--output", output)
    assert status == 130
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]
