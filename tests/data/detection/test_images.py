"""How a detector's images are read: damaged, turned, grey and of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acmix.data import UnreadableFiles
from acmix.data.detection import detection_train_loader, detection_val_loader
from acmix.errors import UsageError
from tests.support.coco import annotation, make_split
from tests.support.detection import config, opened, steps
from tests.support.images import lay_down


def damage(root: Path, split: str, number: int) -> None:
    (root / split / f"{number:04d}.jpg").write_bytes(b"no image")


def test_images_are_grey_for_a_model_of_one_channel(folder):
    grey = config(folder, task={"photometric": True}, batch_size=2)
    grey = grey.model_copy(update={"model": grey.model.model_copy(update={"in_chans": 1})})
    for loader in (detection_train_loader(grey).epoch(0), detection_val_loader(grey, rank=1, world_size=2)):
        for batch in loader:
            assert {image.shape[0] for image in batch.images} == {1}
    five = grey.model_copy(update={"model": grey.model.model_copy(update={"in_chans": 5})})
    with pytest.raises(UsageError, match="in_chans=5"):
        detection_train_loader(five)


def test_an_unreadable_image_gives_way_in_training_and_has_no_weight_in_evaluation(tmp_path):
    for split in ("train", "val"):
        make_split(tmp_path, split, 6)
        damage(tmp_path, split, 1)
        (tmp_path / split / "0002.jpg").unlink()
    dataset = opened(tmp_path, "train")
    row = dataset[1, 5]
    assert (row.index, row.failed, row.weight) == (1, 1, 1.0)
    assert row.target["image_id"] == 13
    assert torch.equal(row.image, dataset[3, 5].image)
    measured = opened(tmp_path)
    row = measured[1]
    assert (row.index, row.failed, row.weight) == (1, 1, 0.0)
    assert row.target["boxes"].shape == (0, 4)
    assert "not an image in a known format" in measured.why(1)
    assert "0002.jpg: no such file" in measured.why(2)
    assert measured.why(0) == ""
    files = UnreadableFiles()
    for batch in detection_val_loader(config(tmp_path)):
        files.add(batch, measured)
    with pytest.raises(UsageError, match="2 of the 6 val images are unreadable"):
        files.check()


def test_when_no_image_can_be_read_a_row_has_no_weight(tmp_path):
    make_split(tmp_path, "train", 4)
    for number in range(4):
        damage(tmp_path, "train", number)
    row = opened(tmp_path, "train")[2]
    assert (row.index, row.failed, row.weight) == (2, 2, 0.0)
    assert row.target["masks"].shape == (0, *row.image.shape[1:])


def test_an_image_of_another_size_than_annotated_is_unreadable(tmp_path):
    def change(content: dict[str, Any]) -> None:
        content["images"][0].update(width=10**9, height=10**9)
        content["images"][1].update(width=49)

    make_split(tmp_path, "val", 6, change=change)
    dataset = opened(tmp_path, head="fcos")
    assert dataset[0].weight == dataset[1].weight == 0
    assert dataset[2].weight == 1
    assert dataset.why(1) == (
        f"image {tmp_path}/val/0001.jpg is 48×32, but the annotations say 49×32; give the image they were made for"
    )
    assert {each["image_id"] for each in dataset.ground_truth()["annotations"]} == {11, 12, 13, 14, 15}


def test_a_turned_photograph_is_read_as_its_annotations_have_it(tmp_path):
    make_split(tmp_path, "val", 3)
    upright = opened(tmp_path)[0].image
    lay_down(tmp_path / "val/0000.jpg")
    # the annotations have the turned size
    assert (opened(tmp_path)[0].image - upright).abs().mean() < 0.05
    content = json.loads((tmp_path / "annotations/instances_val.json").read_text())
    content["images"][0].update(width=32, height=48)
    for each in content["annotations"]:
        each["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(content))
    # and here the stored one
    stored = opened(tmp_path)[0].image
    assert stored.shape == (3, 48, 32)
    assert (stored.rot90(-1, (1, 2)) - upright).abs().mean() < 0.05


@pytest.mark.parametrize("size", [(48, 1), (1, 48)])
def test_an_image_of_one_pixel_s_height_or_width_is_taken(tmp_path, size):
    def change(content: dict[str, Any]) -> None:
        width, height = size
        Image.new("RGB", size, "red").save(tmp_path / "train/0000.jpg")
        content["images"][0].update(width=width, height=height)
        content["annotations"][0] = annotation(1, 10, (0, 0, width, height))

    make_split(tmp_path, "train", 4, change=change)
    dataset = opened(tmp_path, "train")
    assert dataset.why(0) == ""
    rows = [dataset[0, seed] for seed in range(6)]
    assert all(row.index == 0 and row.failed == -1 and min(row.image.shape[1:]) >= 1 for row in rows)


def test_images_of_very_different_sizes_make_a_batch(tmp_path):
    def change(content: dict[str, Any]) -> None:
        for number, size in enumerate([(700, 9), (9, 700), (300, 300), (1, 1)]):
            Image.new("RGB", size, "red").save(tmp_path / f"train/000{number}.jpg")
            content["images"][number].update(width=size[0], height=size[1])
        content["annotations"] = [annotation(1, 12, (5, 5, 90, 80)), annotation(2, 10, (1, 1, 600, 5), category=2)]

    make_split(tmp_path, "train", 4, change=change)
    (batch,) = steps(config(tmp_path, task={"crop": None}))
    assert batch.failed.tolist() == [-1] * 4
    assert all(max(image.shape[1:]) <= 64 for image in batch.images)
