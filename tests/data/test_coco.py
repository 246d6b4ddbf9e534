"""Annotations in COCO's format: what is read, and what is said of each damage."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acmix.config import Data
from acmix.data.coco import Coco, read_coco
from acmix.data.coco_folder import find_split
from acmix.errors import UsageError
from tests.support.coco import annotation, oracle_mask

# all of 40 × 20 pixels
RUNS = {"size": [20, 40], "counts": [0, 800]}


def content(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A file of two images, 40 wide and 20 high, and categories with gaps in other than their ids' order."""
    images = [{"id": identity, "file_name": f"{identity}.jpg", "width": 40, "height": 20} for identity in (12, 7)]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
    return {"images": images, "categories": categories, "annotations": list(annotations), **more}


def thing(identity: int = 1, image: int = 12, box: Any = (1, 2, 10, 8), **more: Any) -> dict[str, Any]:
    good = annotation(identity, image, (1, 2, 10, 8), category=3)
    return good | {"bbox": list(box) if isinstance(box, tuple) else box} | more


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "instances_train.json"


def read(file: Path, *annotations: dict[str, Any], outlines: bool = True, **more: Any) -> Coco:
    file.write_text(json.dumps(content(*annotations, **more)))
    return read_coco(file, with_outlines=outlines)


def refused(file: Path, *annotations: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UsageError) as error:
        read(file, *annotations, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_objects_are_grouped_by_image_and_classes_ordered_by_id(file):
    first, second = thing(5, 7, category_id=90, area=33.5), thing(2, 12, (0.5, 1.5, 3.25, 4), iscrowd=1)
    coco = read(file, first, second, thing(9, 7))
    assert coco.classes == ["car", "cat", "toothbrush"]
    assert coco.category_ids == [3, 17, 90]
    assert coco.names == ["12.jpg", "7.jpg"]
    assert coco.sizes.tolist() == [[20, 40], [20, 40]]
    assert [coco.objects(index).tolist() for index in range(2)] == [[0], [1, 2]]
    assert coco.boxes[0].tolist() == [0.5, 1.5, 3.25, 4]
    assert coco.labels.tolist() == [0, 2, 0]
    assert coco.areas.tolist() == [80, 33.5, 80]
    assert coco.crowd.tolist() == [True, False, False]
    assert coco.notes == []


def test_outlines_follow_their_objects(file):
    oracle = pytest.importorskip("pycocotools.mask")
    polygon, other = [[1.0, 1, 9, 2, 5, 9]], [[20.0, 3, 33.5, 3, 30, 17.1], [2.0, 2, 8, 2, 8, 8]]
    text = {"size": [20, 40], "counts": oracle.frPyObjects(polygon, 20, 40)[0]["counts"].decode()}
    given = {1: (7, polygon), 2: (12, RUNS), 3: (7, other), 4: (12, text)}
    coco = read(file, *(thing(key, image, segmentation=outline) for key, (image, outline) in given.items()))
    assert coco.segmentations is not None
    for row, key in enumerate((2, 4, 1, 3)):
        expected = oracle_mask(given[key][1], 20, 40)
        number = int(coco.outlines[row])
        assert np.array_equal(coco.segmentations.mask(number, 20, 40), expected)
        assert np.array_equal(oracle_mask(coco.segmentations.written(number, 20, 40), 20, 40), expected)


def test_a_long_polygon_is_written_as_run_lengths(file, monkeypatch):
    # C libraries walk a polygon point by point
    monkeypatch.setattr("acmix.data.segmentations.POINTS", 10_000)
    zigzag = [value for _ in range(20) for value in (-1e9, 0.0, 1e9, 10.0)]
    coco = read(file, thing(segmentation=[zigzag]))
    assert coco.segmentations is not None
    written = coco.segmentations.written(0, 20, 40)
    assert isinstance(written, dict)
    assert sum(written["counts"]) == 800
    far = read(file, thing(segmentation=[[-1e9, 0.0, 1e9, 0.0, 1e9, 10.0]])).segmentations
    assert far is not None
    assert far.written(0, 20, 40) == [[-400, 0, 440, 0, 440, 10]]


def test_area_and_iscrowd_may_be_missing(file):
    bare = {key: value for key, value in thing().items() if key not in ("area", "iscrowd")}
    for odd in (bare, thing(area=None, iscrowd=None), thing(area=float("nan")), thing(area=-3), thing(area=10**400)):
        coco = read(file, odd)
        assert coco.areas.tolist() == [80]
        assert not coco.crowd.any()


@pytest.mark.parametrize(
    ("odd", "note"),
    [
        (thing(5, box=(1, 2, 0, 8)), "1 box has no area and is left out (first: image 12, annotation 5)"),
        (thing(5, box=(1, 2, 4, -8)), "1 box has no area and is left out (first: image 12, annotation 5)"),
        (thing(5, box=(40, 2, 4, 8)), "1 box lies outside its image and is left out (first: image 12, annotation 5)"),
        (thing(5, box=(1, -9, 4, 8)), "1 box lies outside its image and is left out (first: image 12, annotation 5)"),
        *(
            (thing(5, box=box), "1 box is not four finite numbers and is left out (first: image 12, annotation 5)")
            for box in (
                None,
                "box",
                [1, 2, 3],
                (1, 2, float("nan"), 4),
                (1, 2, float("inf"), 4),
                (1, 2, "3", 4),
                (1, 2, 10**400, 4),
                [[1, 2], [3, 4], [5, 6], [7, 8]],
                {"x": 1},
            )
        ),
        (
            thing(5, image=99),
            "1 object is left out, its image is not listed (first: annotation 5, image 99)",
        ),
        (
            thing(5, image_id="a"),
            '1 object is left out, its image is not listed (first: annotation 5, image "a")',
        ),
        (
            thing(5, category_id=4),
            "1 object is left out, its category is not listed (first: image 12, annotation 5, category 4)",
        ),
        (
            thing(5, category_id=[[]]),
            "1 object is left out, its category is not listed (first: image 12, annotation 5, category a list)",
        ),
    ],
)
@pytest.mark.parametrize("outlines", [True, False])
def test_a_damaged_object_is_left_out_and_counted(file, odd, note, outlines):
    coco = read(file, thing(1), odd, thing(2, 7), outlines=outlines)
    assert len(coco.boxes) == 2
    assert coco.notes == [note]


@pytest.mark.parametrize("outlines", [True, False])
def test_of_one_annotation_given_twice_one_counts(file, outlines):
    coco = read(file, thing(1), thing(5), thing(5), thing(5), outlines=outlines)
    assert len(coco.boxes) == 2
    assert coco.notes == ["2 objects are listed again and count once (first: image 12, annotation 5)"]


@pytest.mark.parametrize("other", [{"image": 7}, {"category_id": 90}, {"box": (1, 2, 3, 4)}])
def test_objects_that_share_an_id_are_kept_and_counted(file, other):
    coco = read(file, thing(5), thing(5, **other))
    assert len(coco.boxes) == 2
    image = other.get("image", 12)
    assert coco.notes == [f"1 object has the id of another and is kept beside it (first: image {image}, annotation 5)"]


def test_what_is_damaged_and_shares_an_id_is_counted_once(file):
    broken = thing(5, 7, segmentation=[[1, 1, 5, 5]])
    coco = read(file, broken, thing(5), thing(5, box=(1, 2, 0, 0)), broken)
    assert len(coco.boxes) == 1
    assert [note.split(" (")[0] for note in coco.notes] == [
        "2 objects are left out for want of an outline",
        "1 box has no area and is left out",
    ]


def test_a_box_without_bbox_is_counted(file):
    odd = thing(5)
    del odd["bbox"]
    assert read(file, thing(1), odd).notes[0].startswith("1 box is not four finite numbers")


def test_damage_of_one_kind_is_one_line(file):
    coco = read(file, *(thing(number, 7, (number, 1, 0, 0)) for number in range(5)), thing(8))
    assert coco.notes == ["5 boxes have no area and are left out (first: image 7, annotation 0)"]


def test_a_box_beyond_its_image_is_kept_as_annotated_and_counted(file):
    coco = read(file, thing(1, box=(30, 10, 20, 8)), thing(2, box=(-0.05, 0, 40.05, 20)))
    assert coco.boxes.tolist() == [[30, 10, 20, 8], [-0.05, 0, 40.05, 20]]
    assert coco.notes == ["1 box reaches beyond its image, training clips it (first: image 12, annotation 1)"]


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5, "6"]], "no polygon of three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no polygon of three points"),
        ([1, 2, 3, 4, 5, 6], "no polygon of three points"),
        ([[[1, 2], [3, 4], [5, 6]]], "no polygon of three points"),
        ("outline", "neither polygons nor run lengths"),
        ({}, "run lengths for another size than the image's 40×20"),
        ({"size": [40, 20], "counts": [800]}, "run lengths for another size than the image's 40×20"),
        ({"size": [20, 40]}, "run lengths that are neither a list nor text"),
        ({"size": [20, 40], "counts": [3, 4]}, "run lengths for 7 pixels, not for 40×20"),
        ({"size": [20, 40], "counts": "~garbage~"}, "run lengths with characters of no meaning"),
    ],
)
def test_a_broken_outline_is_counted_where_outlines_are_needed(file, outline, reason):
    given = [thing(1), thing(5, segmentation=outline), thing(2, 7)]
    coco = read(file, *given)
    assert len(coco.boxes) == 2
    assert coco.notes == [f"1 object is left out for want of an outline (first: image 12, annotation 5: {reason})"]
    boxes = read(file, *given, outlines=False)
    assert len(boxes.boxes) == 3
    assert boxes.notes == []
    assert boxes.segmentations is None


def test_a_polygon_of_two_points_leaves_the_others_of_its_object(file):
    coco = read(file, thing(5, segmentation=[[1, 2, 3, 4], [1.0, 1, 9, 1, 9, 9], [0, 0]]))
    assert coco.notes == [
        "2 polygons have fewer than three points or are damaged, and are left out (first: image 12, annotation 5)"
    ]
    assert coco.segmentations is not None
    assert coco.segmentations.written(0, 20, 40) == [[1, 1, 9, 1, 9, 9]]


def test_numbers_may_be_written_as_floats(file):
    odd = thing(5.0, 12.0, category_id=3.0, iscrowd=1.0)  # type: ignore[arg-type]
    assert read(file, odd).crowd.tolist() == [True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([thing(5), {"bbox": [1, 2, 3, 4]}], "annotation number 1 has no id; expected a whole number"),
        ([thing(5), 3], "annotation number 1 has no id"),
        ([thing(5) | {"id": 2**70}], "annotation number 0 has no id"),
        ([thing(5, iscrowd="yes")], 'iscrowd is "yes" (image 12, annotation 5); expected 0 or 1'),
        ([thing(5, iscrowd=2)], "iscrowd is 2 (image 12, annotation 5); expected 0 or 1"),
    ],
)
def test_annotations_that_contradict_themselves_are_refused(file, given, message):
    assert message in refused(file, *given)


def image(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "1.jpg", "width": 40, "height": 20} | changed


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "lists no images"),
        ([image(), image()], "two images have the id 1; give each its own"),
        ([image(id="a")], "image number 0 has no id; expected a whole number"),
        ([image(id=True)], "image number 0 has no id"),
        ([["1.jpg"]], "image number 0 has no id"),
        ([image(width=None)], "image 1 is null wide and 20 high; expected width and height in pixels"),
        ([image(height=0)], "image 1 is 40 wide and 0 high"),
        ([image(height="20")], 'image 1 is 40 wide and "20" high'),
        ([image(height=2.5)], "image 1 is 40 wide and 2.5 high"),
        *(
            ([image(file_name=name)], "expected a path within the folder of images")
            for name in (
                None,
                3,
                "",
                "../1.jpg",
                "a/../../1.jpg",
                "/etc/passwd",
                "a\\..\\1.jpg",
                "C:\\1.jpg",
                "a\0",
                "\ud800",
                ["1.jpg"],
            )
        ),
    ],
)
def test_images_that_contradict_themselves_are_refused(file, images, message):
    assert message in refused(file, images=images)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "lists no categories; expected one for each class"),
        ([{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}], "two categories have the id 1; give each its own"),
        ([{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}], "two categories are named 'cat'"),
        ([{"id": 1}], "category number 0 has no id and name; expected a whole number and a text"),
        ([{"name": "cat"}], "category number 0 has no id and name"),
        (["cat"], "category number 0 has no id and name"),
    ],
)
def test_categories_that_contradict_themselves_are_refused(file, categories, message):
    assert message in refused(file, categories=categories)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged or no JSON: Expecting value"),
        ('{"images": [', "is damaged or no JSON: Expecting value"),
        ("\x89PNG", "is damaged or no JSON"),
        ("[" * 200_000, "its lists are nested too deeply"),
        ('{"images": [' + "[" * 200_000, "its lists are nested too deeply"),
        ("[]", "expected an object with the lists images, annotations and categories, found a list"),
        ('"text"', 'found "text"'),
        ("{}", "but there is no images"),
        ('{"images": [], "annotations": {}, "categories": []}', "but annotations is an object"),
        ('{"images": ' + "9" * 5000 + "}", "is damaged or no JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_is_not_coco_s_is_refused(file, text, message):
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_coco(file, with_outlines=True)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_bytes_that_are_no_text_are_refused(file):
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="damaged or no JSON"):
        read_coco(file, with_outlines=False)
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        read_coco(file.parent, with_outlines=False)


def test_a_byte_order_mark_is_no_damage(file):
    file.write_text("\ufeff" + json.dumps(content(thing())), encoding="utf-8")
    assert len(read_coco(file, with_outlines=True).boxes) == 1


def test_a_size_of_billions_takes_no_memory(file):
    large = image(id=12, width=10**9, height=10**9)
    outline = {"size": [10**9, 10**9], "counts": [10**18]}
    given = content(thing(1), thing(2, segmentation=outline), images=[large])
    file.write_text(json.dumps(given))
    tracemalloc.start()
    coco = read_coco(file, with_outlines=True)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert coco.sizes.tolist() == [[10**9, 10**9]]
    assert coco.notes == []


def lay_out(root: Path, *paths: str) -> Path:
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("{}")
    return root


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2017.json", "train2017/"),
        ("annotations/train2017.json", "images/train2017/"),
        ("train2017/_annotations.coco.json", "train2017/"),
    ],
)
def test_a_split_is_found_in_the_usual_layouts(tmp_path, annotations, images):
    lay_out(tmp_path, annotations, images)
    data = Data(dir=str(tmp_path), train_split="train2017")
    assert find_split(data, "train") == (tmp_path / annotations, tmp_path / images)


def test_of_splits_with_other_names_none_is_guessed_until_one_is_left(tmp_path):
    lay_out(tmp_path, "annotations/instances_check.json", "annotations/instances_learn.json", "learn/")
    with pytest.raises(UsageError, match=r"of check, learn: set data\.train_split and data\.val_split to two of them$"):
        find_split(Data(dir=str(tmp_path)), "train")
    with pytest.raises(UsageError, match=r"of check, learn: set data\.val_split=check \(with .*--split check\), or "):
        find_split(Data(dir=str(tmp_path), train_split="learn"), "val")
    with pytest.raises(UsageError, match=r"to two of them \(with acmix evaluate: --split NAME\)$"):
        find_split(Data(dir=str(tmp_path)), "val")


def test_a_missing_split_is_told_with_those_that_are_there(tmp_path):
    def said(data: Data, split: str = "val") -> str:
        with pytest.raises(UsageError) as error:
            find_split(data, split)
        return str(error.value)

    assert said(Data(dir="")).startswith("no data folder is given; add --data DIR")
    assert said(Data(dir=str(tmp_path / "none"))).startswith(f"{tmp_path / 'none'} is not there")
    data = Data(dir=str(tmp_path), val_split="val2017")
    assert "has no annotations/instances_val2017.json, nor any other annotations" in said(data)
    lay_out(tmp_path, "annotations/instances_train.json", "annotations/instances_val.json", "train/")
    assert said(data) == (
        f"{tmp_path} has no annotations/instances_val2017.json; it has annotations of train, val:"
        " set data.val_split=val (with acmix evaluate: --split val), or name another"
    )
    assert said(Data(dir=str(tmp_path))).startswith(f"{tmp_path} has no folder val/ or images/val/")
    # one folder too deep
    assert said(Data(dir=str(tmp_path / "train"))) == (
        f"{tmp_path / 'train'} has no annotations/instances_val.json; {tmp_path} holds annotations: give that folder"
    )
    assert "data.format=wds/ is for task.name=classify" in said(Data(dir=str(tmp_path), format="wds/"))
