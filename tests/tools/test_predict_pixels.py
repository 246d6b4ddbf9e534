"""Segmenters name every pixel: as data, in COCO's format, as tables and drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.errors import UsageError
from acmix.tools import predict_command
from acmix.tools.predict import predict
from tests.support.checks import one_error
from tests.support.found import Thirds, with_names

SIZES = {"min_size": 32, "max_size": 64, "crop": 32}

# pycocotools meets NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def model() -> Any:
    return with_names(Thirds(), "segment", **SIZES)[0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (90, 60), (200, 120, 40)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def command(acmix: Any, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`acmix predict it …` in a folder of its own."""
    monkeypatch.setattr(predict_command, "load", lambda *_, **__: (model, model.acmix_info))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: acmix("predict", "it", *arguments)


def expected(width: int = 90, height: int = 60) -> np.ndarray:
    return np.tile(np.arange(width) * 3 // width, (height, 1))


def test_the_label_map_has_the_size_of_the_image(model: Any, photo: Path) -> None:
    [found] = predict(model, photo)
    assert found.labels.dtype == np.uint8
    assert np.array_equal(found.labels, expected())
    assert [(each.name, each.label, each.share) for each in found.regions] == [
        (name, label, pytest.approx(1 / 3)) for label, name in enumerate(["cat", "dog", "owl"])
    ]
    # the model saw it as evaluation shows it: 32 pixels high, normalised
    assert [each.shape for each in model.seen] == [(1, 3, 32, 48)]
    assert torch.equal(model.seen[0][0], model.acmix_info.transform(photo))


def test_a_model_that_was_evaluated_in_windows_predicts_in_windows(photo: Path) -> None:
    model: Any = with_names(Thirds(), "segment", **SIZES, sliding=True, stride=16)[0]
    predict(model, photo)
    assert [each.shape for each in model.seen] == [(1, 3, 32, 32)] * 2


def test_unreadable_images_prepared_ones_and_damaged_weights(model: Any, photo: Path) -> None:
    found = predict(model, [photo, "absent.png", model.acmix_info.transform(photo)])
    assert [one.size for one in found] == [(60, 90), None, (32, 48)]
    assert "no such file" in found[1].error
    # of a model without info
    assert predict(Thirds(), torch.zeros(3, 8, 9))[0].names == ["0", "1", "2"]
    with pytest.raises(UsageError, match="give float tensors"):
        predict(Thirds(), photo)
    model.forward = lambda images: torch.full((1, 3, *images.shape[2:]), torch.nan)
    assert "no finite numbers" in predict(model, photo)[0].error


def test_text_tables_and_json_say_the_shares(command: Any, photo: Path) -> None:
    status, said, _ = command(photo)
    assert (status, said.splitlines()) == (0, [str(photo), "   33.33%  cat", "   33.33%  dog", "   33.33%  owl"])
    rows = json.loads(command(photo, "--json")[1])
    assert [(row["image_id"], row["category_id"], row["category"]) for row in rows] == [
        ("photo.png", 1, "cat"), ("photo.png", 2, "dog"), ("photo.png", 3, "owl"),
    ]  # fmt: skip
    oracle = pytest.importorskip("pycocotools.mask")
    assert [np.array_equal(oracle.decode(row["segmentation"]), expected() == i) for i, row in enumerate(rows)] == [
        True
    ] * 3
    assert command(photo, "absent.png", "--output", "found.csv")[0] == 2
    with open("found.csv", encoding="utf-8", newline="") as file:
        assert [(row["class"], row["share"][:5]) for row in csv.DictReader(file)] == [
            ("cat", "0.333"), ("dog", "0.333"), ("owl", "0.333"), ("", ""),
        ]  # fmt: skip


@pytest.mark.parametrize("ignore_zero", [True, False])
def test_a_drawing_has_a_legend_and_the_label_map_lies_beside_it_as_the_data_has_it(
    acmix: Any, photo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ignore_zero: bool
) -> None:
    found = with_names(Thirds(), "segment", **SIZES, ignore_zero=ignore_zero)
    monkeypatch.setattr(predict_command, "load", lambda *_, **__: found)
    drawn = tmp_path / "drawn"
    status, said, _ = acmix("predict", "it", photo, "--output", drawn)
    assert (status, said) == (0, f"1 image; drawn, with label maps in labels/, in: {drawn}\n")
    with Image.open(drawn / "photo.png") as picture:
        assert picture.width == 540
        assert picture.height > 360
        colours = {picture.getpixel((x, 100)) for x in (50, 250, 450)}
        assert len(colours) == 3
    with Image.open(drawn / "labels" / "photo.png") as labels:
        assert labels.mode == "L"
        assert np.array_equal(np.asarray(labels), expected() + ignore_zero)


def test_options_of_detectors_are_refused(command: Any, photo: Path) -> None:
    status, _, errors = command(photo, "--score", "0.5")
    assert status == 2
    one_error(errors, "--score 0.5 is for detectors, and this model names every pixel")
