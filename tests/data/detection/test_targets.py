"""Which objects a detector is trained and measured on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.config import Augment
from acmix.data.detection import open_coco
from acmix.errors import UsageError
from tests.support.coco import annotation, make_split, oracle_mask
from tests.support.detection import config, flat, opened


def test_targets_are_what_the_annotations_say(folder):
    content = json.loads((folder / "annotations/instances_val.json").read_text())
    dataset = opened(folder)
    row = dataset[1]
    wanted = [each for each in content["annotations"] if each["image_id"] == 11]
    assert row.target["boxes"].tolist() == [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in wanted)]
    assert row.target["labels"].tolist() == [each["category_id"] for each in wanted]
    assert row.target["area"].tolist() == [each["area"] for each in wanted]
    assert row.target["iscrowd"].tolist() == [0, 0]
    assert row.target["image_id"] == 11
    assert "masks" not in row.target
    assert row.image.shape == (3, 32, 48)
    picture = torch.from_numpy(np.array(Image.open(folder / "val/0001.jpg"))).permute(2, 0, 1)
    torch.testing.assert_close(row.image, picture / 255)
    masks = dataset.target(1, masks=True)["masks"].numpy()
    for mask, each in zip(masks, wanted, strict=True):
        assert np.array_equal(mask, oracle_mask(each["segmentation"], 32, 48))


def test_masks_come_with_the_heads_that_need_them(folder):
    for head, has_masks in (("mask_rcnn", True), ("cascade_mask_rcnn", True), ("faster_rcnn", False), ("fcos", False)):
        row = opened(folder, "train", head=head)[0]
        assert ("masks" in row.target) == has_masks
        assert "masks" not in opened(folder, head=head)[0].target
    assert "masks" not in opened(folder, "train", head="retinanet").target(0, masks=True)


def test_crowds_are_measured_with_and_not_learned(tmp_path):
    def change(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each["iscrowd"] = int(each["image_id"] in (10, 11))
        content["annotations"].append(annotation(99, 13, (2, 3, 20, 9), iscrowd=1, category=2))

    make_split(tmp_path, "train", 6, change=change)
    dataset = opened(tmp_path, "train")
    row = dataset[0]
    assert row.weight == 1
    assert row.target["boxes"].shape == (0, 4)
    assert row.target["masks"].shape == (0, *row.image.shape[1:])
    assert all(dataset[3, seed].target["iscrowd"].sum() == 0 for seed in range(3))
    assert "2 of 6 images have no object to learn and are learned as background" in dataset.notes
    make_split(tmp_path, "val", 6, change=change)
    measured = opened(tmp_path)
    assert measured[3].target["iscrowd"].tolist() == [0, 0, 1]
    assert sum(each["iscrowd"] for each in measured.ground_truth()["annotations"]) == 4


def test_an_image_without_objects_is_learned_as_background(tmp_path):
    make_split(tmp_path, "train", 4, change=lambda content: content["annotations"].__delitem__(0))
    dataset = opened(tmp_path, "train")
    assert dataset[0].target["boxes"].shape == (0, 4)
    assert dataset.notes == ["1 of 4 images has no object to learn and is learned as background"]


def test_boxes_beyond_the_image_are_clipped_in_training_alone(tmp_path):
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0].update(bbox=[40, 20, 30, 30], segmentation=[[40, 20, 70, 20, 70, 50]])

    for split in ("train", "val"):
        make_split(tmp_path, split, 4, change=change)
    plain = {"crop": None, "min_size": [32], "max_size": 48}
    settings = config(tmp_path, task=plain)
    dataset = open_coco(settings.data, "train", settings.task, augment=Augment(hflip=0.0))
    assert dataset[0].target["boxes"].tolist() == [[40, 20, 48, 32]]
    assert dataset[0].target["area"].tolist() == [96]
    assert dataset.notes[0].startswith("1 box reaches beyond its image, training clips it (first: image 10")
    measured = opened(tmp_path)
    assert measured[0].target["boxes"].tolist() == [[40, 20, 70, 50]]
    assert measured.ground_truth()["annotations"][0]["bbox"] == [40, 20, 30, 30]


def test_the_ground_truth_is_coco_s(folder):
    content = json.loads((folder / "annotations/instances_val.json").read_text())
    truth = opened(folder).ground_truth()
    assert truth["images"] == content["images"]
    assert truth["categories"] == content["categories"]
    assert truth["annotations"] == content["annotations"]
    boxes = opened(folder, head="fcos").ground_truth()
    assert not any("segmentation" in each for each in boxes["annotations"])


def test_images_are_held_out_of_data_without_a_second_split(tmp_path):
    content = make_split(tmp_path, "train", 10)
    settings = config(tmp_path)
    data = settings.data.model_copy(update={"split": 0.3})
    whole, train, val = (
        open_coco(given, split, settings.task)
        for given, split in ((settings.data, "train"), (data, "train"), (data, "val"))
    )
    assert (len(train), len(val)) == (7, 3)
    assert {*train.coco.names, *val.coco.names} == {each["file_name"] for each in content["images"]}
    assert val.notes == ["3 of 10 images are held out by data.split=0.3, data.split_seed=0"]
    for part in (train, val):
        for index, name in enumerate(part.coco.names):
            left = part.target(index, masks=True)
            right = whole.target(whole.coco.names.index(name), masks=True)
            assert all(torch.equal(a, b) for a, b in zip(flat(left), flat(right), strict=True))
        assert len(part.ground_truth()["annotations"]) == len(part.coco.boxes)
    # what has a validation split keeps it
    make_split(tmp_path, "val", 4)
    with pytest.raises(UsageError, match="has validation images"):
        open_coco(data, "train", settings.task)
    measured = open_coco(data, "val", settings.task)
    assert len(measured) == 4
    assert "the run held out images by data.split=0.3" in measured.notes[0]


def test_one_image_is_not_split(tmp_path):
    make_split(tmp_path, "train", 1)
    settings = config(tmp_path)
    with pytest.raises(UsageError, match="needs two images to hold one out"):
        open_coco(settings.data.model_copy(update={"split": 0.5}), "train", settings.task)


def test_masks_that_take_gigabytes_are_not_made(folder, monkeypatch):
    monkeypatch.setattr("acmix.data.detection_dataset.MOST_MASKS", 2 * 48 * 32 - 1)
    dataset = opened(folder, "train")
    assert dataset[1].failed == 1
    assert "2 masks of 48×32 pixels take 0.0 GiB" in dataset.why(1)
    assert dataset.why(0) == ""


def test_a_split_without_anything_to_learn_is_refused(tmp_path):
    def all_crowd(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each["iscrowd"] = 1

    make_split(tmp_path, "train", 3, change=all_crowd)
    with pytest.raises(UsageError, match=r"no object to learn or to find; all that is left is crowds \(4, iscrowd 1\)"):
        opened(tmp_path, "train")
    make_split(tmp_path, "train", 3, change=lambda content: content["annotations"].clear())
    with pytest.raises(UsageError, match="has no object to learn or to find; expected boxes with an area"):
        opened(tmp_path, "train")

    def without_outlines(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            del each["segmentation"]

    make_split(tmp_path, "train", 3, change=without_outlines)
    with pytest.raises(UsageError) as error:
        opened(tmp_path, "train")
    assert "4 objects are left out for want of an outline (first: image 10, annotation 1: no segmentation)" in str(
        error.value
    )
    assert "task.head=mask_rcnn needs outlines (segmentation); set task.head=faster_rcnn" in str(error.value)
    assert opened(tmp_path, "train", head="faster_rcnn").notes == []
