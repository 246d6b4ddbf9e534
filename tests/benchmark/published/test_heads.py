"""`benchmarks/downstream.py`: every head on every family, with one recipe a task."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from acmix.benchmark.published import heads
from acmix.benchmark.published.heads import COLUMNS, DETECTORS, FIRST, SEGMENTERS, Cell, Length, cells, settings
from acmix.config import dump

ROOT = Path(__file__).resolve().parent.parent.parent.parent
TINY = Length(images=(20, 4), size=48, steps={"classify": 1, "segment": 1, "detect": 1})


def stored() -> list[dict[str, str]]:
    """The rows of the file that is published."""
    with (ROOT / "benchmarks" / "results" / "downstream.csv").open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_there_are_49_runs_and_swin_and_resnet_have_both_forms() -> None:
    found = cells()
    assert len(found) == len({*found}) == 49
    assert {each.family for each in found if not each.conv_path} == {"swin", "resnet"}
    assert {each.head for each in found} == {*DETECTORS, *SEGMENTERS}


@pytest.mark.parametrize("some", [DETECTORS, SEGMENTERS])
def test_a_task_has_one_recipe(some: tuple[str, ...], tmp_path: Path) -> None:
    def recipe(cell: Cell) -> str:
        config = settings(cell, tmp_path, Length())
        return dump(config.model_copy(update={"model": None, "task": config.task.model_copy(update=varying)}))

    varying = {"head": None, "args": None}
    assert len({recipe(each) for each in cells(some)}) == 1


def test_a_run_begins_with_the_classifier_of_its_form(tmp_path: Path) -> None:
    for cell in cells():
        body, own = (settings(each, tmp_path, Length()).model for each in (cell.body, cell))
        assert (body.name, body.args, body.conv_path) == (own.name, own.args, own.conv_path)
        assert own.checkpoint == str(tmp_path / cell.body.folder / "checkpoints" / "best.pt")


def test_an_object_is_cut_out_as_a_square_within_its_image(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    (scenes / "annotations").mkdir(parents=True)
    (scenes / "val").mkdir()
    image = torch.zeros(20, 40, 3, dtype=torch.uint8)
    image[4:14, :10] = 255
    Image.fromarray(image.numpy()).save(scenes / "val" / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "nought"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 3, "iscrowd": 0, "bbox": [0, 4, 10, 10]},
            {"id": 6, "image_id": 1, "category_id": 3, "iscrowd": 1, "bbox": [0, 4, 10, 10]},
        ],
    }
    (scenes / "annotations" / "instances_val.json").write_text(json.dumps(document))
    heads.cut_out(scenes, "val", tmp_path / "cut")
    [file] = (tmp_path / "cut").rglob("*.png")
    assert file.parent.name == "nought"
    with Image.open(file) as cut:
        assert cut.size == (heads.CROP, heads.CROP)
        assert cut.getpixel((2, 16)) == (255, 255, 255)
        assert cut.getpixel((30, 16)) == (0, 0, 0)
    assert heads.inside(-3, 5, 30, (40, 20)) == (0, 0, 20, 20)


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads.write_data(tmp_path, TINY)
    cell = Cell("fcos", "pvt", True)
    heads.run(cell.body, tmp_path, TINY)
    row = heads.run(cell, tmp_path, TINY)
    assert {*COLUMNS} <= {*row}
    assert (row["head"], row["steps"], row["mask_ap"]) == ("fcos", "1", "")
    assert 0 <= float(row["box_ap50"]) <= 100
    monkeypatch.setattr(heads, "train", None)
    assert heads.run(cell, tmp_path, TINY) == row
    heads.write(tmp_path, tmp_path)
    with (tmp_path / "downstream.csv").open(newline="", encoding="utf-8") as file:
        assert [each["head"] for each in csv.DictReader(file)] == ["fcos"]
    assert (tmp_path / "downstream.png").stat().st_size > 1000
    assert FIRST not in (tmp_path / "downstream.csv").read_text()
