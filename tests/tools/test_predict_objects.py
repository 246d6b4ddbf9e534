"""Detectors predict objects: as data, in COCO's format, as tables and drawn."""

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
from acmix.tools.load import Info
from acmix.tools.predict import predict
from tests.support.checks import one_error
from tests.support.found import StillDetector, with_names

# pycocotools meets NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def model() -> Any:
    return with_names(StillDetector(), "detect")[0]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images of one name in two folders, of unlike sizes."""
    for place, size in (("photos/a/0.jpg", (80, 40)), ("photos/b/0.jpg", (30, 90))):
        (tmp_path / place).parent.mkdir(parents=True)
        Image.new("RGB", size, (90, 120, 40)).save(tmp_path / place)
    return tmp_path / "photos"


@pytest.fixture
def command(acmix: Any, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`acmix predict it …` in a folder of its own."""
    info: Info = model.acmix_info
    monkeypatch.setattr(predict_command, "load", lambda *_, **__: (model, info))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: acmix("predict", "it", *arguments)


def test_objects_come_the_surest_first_in_pixels_of_the_image(model: Any, photos: Path) -> None:
    [wide, high] = predict(model, photos)
    assert wide.image == str(photos / "a/0.jpg")
    assert (wide.size, high.size) == ((40, 80), (90, 30))
    assert wide.names == ["dog", "cat"]
    assert wide.scores.tolist() == pytest.approx([0.9, 0.6])
    assert wide.boxes.tolist() == [[20, 10, 60, 30], [0, 0, 40, 40]]
    assert wide.masks.shape == (2, 40, 80)
    assert wide.objects[0].label == 2
    expected = np.zeros((40, 80), bool)
    expected[10:20, 20:60] = True
    assert np.array_equal(wide.objects[0].mask, expected)
    assert model.seen[0].shape == (3, 40, 80)


def test_the_score_decides_what_counts_and_no_object_is_no_error(model: Any, photos: Path) -> None:
    image = photos / "a/0.jpg"
    assert [predict(model, image, score=score)[0].names for score in (0, 0.7, 1)] == [
        ["dog", "cat", "owl"],
        ["dog"],
        [],
    ]
    [empty] = predict(model, image, score=1)
    assert (empty.boxes.shape, empty.masks, empty.error) == ((0, 4), None, None)
    [plain] = predict(with_names(StillDetector(has_masks=False), "detect")[0], image)
    assert (plain.names, plain.masks, plain.objects[0].mask) == (["dog", "cat"], None, None)


def test_images_of_any_kind_and_unreadable_ones(model: Any, photos: Path) -> None:
    image = Image.open(photos / "a/0.jpg")
    prepared = model.acmix_info.transform(photos / "a/0.jpg")
    given = [photos / "a/0.jpg", image, np.asarray(image), prepared, photos / "absent.png", b"x"]
    found = predict(model, given, workers=2)
    assert [one.size for one in found] == [(40, 80)] * 4 + [None] * 2
    assert [one.objects == found[0].objects for one in found] == [True] * 4 + [False] * 2
    assert "no such file" in found[4].error
    assert found[5].objects == []


def test_a_detector_without_info_numbers_its_classes_and_keeps_its_mode(photos: Path) -> None:
    model = StillDetector().train()
    assert [one.names for one in predict(model, photos)] == [["2", "1"]] * 2
    assert model.training


def test_options_of_another_task_are_refused(model: Any, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"--top 3 is for classifiers, and this model detects objects: .*--score"):
        predict(model, photos, 3)
    with pytest.raises(UsageError, match=r"--score 0\.5 is for detectors, and this model names whole images"):
        predict(torch.nn.Linear(1, 1), photos, score=0.5)
    with pytest.raises(UsageError, match="--score 2: expected 0 to 1"):
        predict(model, photos, score=2)


def test_numbers_that_are_not_finite_are_no_object(model: Any, photos: Path) -> None:
    original = model.found_in

    def broken(image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = original(image)
        found["scores"][0] = torch.nan
        found["boxes"][1, 2] = torch.inf
        return found

    model.found_in = broken
    assert predict(model, photos, score=0)[0].names == ["owl"]


def test_the_text_has_a_line_for_each_object(command: Any, photos: Path) -> None:
    status, said, _ = command(photos / "a/0.jpg")
    assert status == 0
    assert said.splitlines() == [
        str(photos / "a/0.jpg"),
        "  0.900     20.0    10.0    60.0    30.0  dog",
        "  0.600      0.0     0.0    40.0    40.0  cat",
    ]
    assert command(photos / "a/0.jpg", "--score", "0.95")[1].splitlines()[1:] == [
        "  no object with a score of 0.95 or more"
    ]


def test_json_is_one_array_that_pycocotools_loads(command: Any, photos: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    status, said, errors = command(photos, "absent.jpg", "--json")
    assert status == 2
    one_error(errors, "absent.jpg: no such file")
    rows = json.loads(said)
    assert len(rows) == len(said.splitlines()) - 2 == 6
    assert {key: rows[0][key] for key in ("image_id", "category_id", "category", "bbox")} == {
        "image_id": "0.jpg",
        "category_id": 2,
        "category": "dog",
        "bbox": [20.0, 10.0, 40.0, 20.0],
    }
    assert [row["image"] for row in rows] == [str(photos / "a/0.jpg")] * 3 + [str(photos / "b/0.jpg")] * 3
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": "0.jpg", "height": 40, "width": 80}],
        "categories": [{"id": each} for each in (1, 2, 3)],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes([row for row in rows if row["image"].endswith("a/0.jpg")])
    assert [each["area"] for each in results.loadAnns(results.getAnnIds())] == [800, 1600, 0]
    mask = results.annToMask(results.loadAnns([1])[0])
    assert (mask.sum(), mask[10:20, 20:60].all()) == (400, True)
    assert command(photos / "absent", "--json")[:2] == (2, "[\n]\n")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Of the photos, without objects, with ids that have gaps and another order."""
    file = tmp_path / "instances.json"
    images = [{"id": 70, "file_name": "b/0.jpg", "height": 90, "width": 30}]
    images.append({"id": 9, "file_name": "a/0.jpg", "height": 40, "width": 80})
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "owl"}]
    file.write_text(json.dumps({"images": images, "categories": categories}))
    return file


def test_results_take_the_ids_of_annotations_and_can_be_measured_against_them(
    command: Any, photos: Path, listed: Path, tmp_path: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    status, said, _ = command(photos, "--json", "--ids", listed)
    assert status == 0
    rows = json.loads(said)
    assert [(row["image_id"], row["category_id"], row["category"]) for row in rows[:2]] == [
        (9, 18, "dog"),
        (9, 17, "cat"),
    ]
    assert {row["image_id"] for row in rows[3:]} == {70}
    truth = coco.COCO()
    truth.dataset = json.loads(listed.read_text()) | {"annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(json.loads(said)).getAnnIds()) == len(rows)
    for name in ("found.json", "found.jsonl"):
        assert command(photos, "--output", name, "--ids", listed)[0] == 0
    lines = (tmp_path / "found.jsonl").read_text().splitlines()
    assert [*map(json.loads, lines)] == json.loads((tmp_path / "found.json").read_text()) == rows


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({}, ["--output", "found.csv"], "--ids is for COCO's results of a detector: use it with --json, or --output"),
        ({}, [], "--ids is for COCO's results of a detector"),
        ({"categories": [{"id": 1, "name": "dog"}]}, ["--json"], "has no category 'cat', 'owl', which the model names"),
        ({"images": []}, ["--json"], "lists no image"),
        ({"images": 3}, ["--json"], "expected the lists images and categories, but images is 3"),
    ],
)
def test_ids_that_cannot_be_given_are_refused_before_an_image_is_looked_at(
    change: dict[str, Any], arguments: list[str], said: str, command: Any, photos: Path, listed: Path
) -> None:
    listed.write_text(json.dumps(json.loads(listed.read_text()) | change))
    status, printed, errors = command(photos, *arguments, "--ids", listed)
    assert (status, printed) == (2, "")
    one_error(errors, said)


def test_files_hold_a_row_an_object(command: Any, photos: Path, tmp_path: Path) -> None:
    images = [photos / "a/0.jpg", "absent.png"]
    for name in ("found.csv", "found.jsonl", "found.json"):
        status, said, _ = command(*images, "--output", name)
        assert (status, said) == (2, f"2 images, 1 of them unreadable; written: {name}\n")
    with open("found.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "class", "score", "left", "top", "right", "bottom", "error"]
    assert [row["class"] for row in rows] == ["dog", "cat", "owl", ""]
    assert [row["right"] for row in rows[:2]] == ["60.00", "40.00"]
    assert "no such file" in rows[3]["error"]
    lines = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert lines[:3] == json.loads(Path("found.json").read_text())
    assert lines[3]["error"] == rows[3]["error"]


def test_drawings_of_one_name_stand_beside_each_other_and_replace_nothing_else(
    command: Any, photos: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    status, said, _ = command(photos, "--output", "drawn")
    assert (status, said) == (0, "2 images; drawn in: drawn\n")
    assert sorted(path.name for path in drawn.iterdir()) == ["0.png", "b_0.png"]
    with Image.open(drawn / "0.png") as picture:
        assert picture.size == (480, 240)
        assert picture.convert("RGB").getcolors(100_000) != [(480 * 240, (90, 120, 40))]
    # a second time the drawings are replaced; what is not a drawing stays
    (drawn / "b_0.png").write_bytes(b"mine")
    (photos / "c").mkdir()
    (photos / "c/own.png").write_bytes((photos / "a/0.jpg").read_bytes())
    command(photos, photos / "c/own.png", "--output", "drawn")
    assert sorted(path.name for path in drawn.iterdir()) == ["0.png", "0_2.png", "b_0.png", "c_own.png", "own.png"]
    assert (drawn / "b_0.png").read_bytes() == b"mine"


def test_drawings_without_any_object_are_told(command: Any, photos: Path) -> None:
    assert command(photos, "--output", "drawn", "--score", "0.95")[:2] == (
        0,
        "2 images; drawn in: drawn\n"
        "nothing is drawn: no object with a score of 0.95 or more; --score sets another limit\n",
    )
    assert "nothing" not in command("absent.png", "--output", "drawn", "--score", "0.95")[1]


def test_an_image_is_never_drawn_over(command: Any, photos: Path) -> None:
    Image.open(photos / "a/0.jpg").save(photos / "a/1.png")
    before = (photos / "a/1.png").read_bytes()
    command(photos / "a/1.png", "--output", photos / "a")
    assert (photos / "a/1.png").read_bytes() == before
    assert sorted(path.name for path in (photos / "a").iterdir()) == ["0.jpg", "1.png", "a_1.png"]
    # neither one that comes later, nor a drawing that is an image now
    command(photos / "a/a_1.png", photos / "b/0.jpg", "--output", photos / "a")
    kept = (photos / "a/a_1.png").read_bytes()
    command(photos / "a/1.png", photos / "a/a_1.png", "--output", photos / "a")
    assert (photos / "a/a_1.png").read_bytes() == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "x.png"], "--output x.png: expected a folder to draw into, or a file whose name ends in .csv"),
        (["--output", "photos/a/0.jpg"], "expected a folder to draw into"),
        (["--output", "x.json", "--json"], "use one of them"),
        (["--top", "2"], "--top 2 is for classifiers, and this model detects objects"),
        (["--score", "1.5"], "--score 1.5: expected 0 to 1"),
        (["--output", "file"], "--output file is a file; expected a folder"),
        (["--output", "file/below"], "cannot make the folder file/below: Not a directory"),
    ],
)
def test_wrong_input_is_one_line(command: Any, photos: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "file").touch()
    status, _, errors = command(photos, *arguments)
    assert status == 2
    one_error(errors, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]
