"""Which images and objects a detector is trained and measured on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.config import Augment, Config, validate
from acmix.data import Trained, UnreadableFiles
from acmix.data.dataset import PADDING, OtherClasses
from acmix.data.detection import detection_train_loader, detection_val_loader, open_coco
from acmix.data.detection_dataset import DetectionBatch, DetectionDataset
from acmix.errors import UsageError
from tests.support.coco import NAMES, annotation, make_split, oracle_mask
from tests.support.images import lay_down


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    make_split(root, "train", 23)
    make_split(root, "val", 5)
    return root


def config(root: Path, *, head: str = "mask_rcnn", workers: int = 0, task: Any = None, **train: Any) -> Config:
    sizes = {"min_size": [24, 32], "max_size": 64, "crop": [10, 30]}
    return validate(
        {
            "task": {"name": "detect", "head": head, "num_classes": 3, **sizes, **(task or {})},
            "data": {"dir": str(root), "workers": workers},
            "train": {"batch_size": 4, "seed": 3, **train},
        }
    )


def opened(root: Path, split: str = "val", *, trained: Trained | None = None, **settings: Any) -> DetectionDataset:
    given = config(root, **settings)
    augment = given.augment if split == "train" else None
    return open_coco(given.data, split, given.task, augment=augment, trained=trained)


def flat(value: Any) -> list[torch.Tensor]:
    """Every tensor in a batch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [each for key in sorted(value) for each in flat(value[key])]
    return [tensor for each in value for tensor in flat(each)]


def steps(settings: Config, world_size: int = 1, epoch: int = 0, start_step: int = 0) -> list[DetectionBatch]:
    """One batch an optimizer step: the micro-batches of all processes put together."""
    loaders = [detection_train_loader(settings, rank=rank, world_size=world_size) for rank in range(world_size)]
    streams = [list(loader.epoch(epoch, start_step)) for loader in loaders]
    accumulation = settings.train.accumulation
    together = []
    for step in range(loaders[0].steps_per_epoch - start_step):
        passes = range(step * accumulation, (step + 1) * accumulation)
        parts = [stream[number] for number in passes for stream in streams]
        images, targets = ([row for part in parts for row in getattr(part, key)] for key in ("images", "targets"))
        rest = (torch.cat([getattr(part, key) for part in parts]) for key in ("weights", "failed", "index"))
        together.append(DetectionBatch(images, targets, *rest))
    return together


def assert_same(left: list[DetectionBatch], right: list[DetectionBatch]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_one_process_two_processes_and_accumulation_see_the_same_images(folder):
    one = steps(config(folder, batch_size=8))
    assert len(one) == 23 // 8
    assert_same(one, steps(config(folder, batch_size=4), world_size=2))
    assert_same(one, steps(config(folder, batch_size=4, accumulation=2)))
    assert_same(one, steps(config(folder, batch_size=2, accumulation=2), world_size=2))


def test_workers_do_not_change_the_batches_and_an_epoch_continues_where_it_was_left(folder):
    whole = steps(config(folder), epoch=1)
    assert_same(whole[2:], steps(config(folder, workers=2), epoch=1, start_step=2))


def test_another_epoch_has_another_order_and_other_changes(folder):
    first, second = (steps(config(folder), epoch=epoch) for epoch in range(2))
    assert any(not torch.equal(a.index, b.index) for a, b in zip(first, second, strict=True))
    dataset = opened(folder, "train")
    assert not torch.equal(dataset[0, 1].image, dataset[0, 2].image)


def test_the_images_of_a_step_have_one_shape_as_far_as_they_go(folder):
    dataset = opened(folder, "train")
    high = np.array(dataset.groups) == 0
    assert high.sum() == 7
    # 7 high and 16 wide images: 1 + 4 steps of 4, or 1 + 3 and one of what is left of both
    for epoch in range(3):
        batches = steps(config(folder), epoch=epoch)
        shapes = [{dataset.groups[index] for index in batch.index.tolist()} for batch in batches]
        assert [len(each) for each in shapes] == [1] * 5
        assert shapes.count({0}) == 1
    mixed = [
        {dataset.groups[index] for index in batch.index.tolist()} for batch in steps(config(folder, batch_size=10))
    ]
    assert mixed == [{1}, {0, 1}]


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


def test_images_are_grey_for_a_model_of_one_channel(folder):
    grey = config(folder, task={"photometric": True}, batch_size=2)
    grey = grey.model_copy(update={"model": grey.model.model_copy(update={"in_chans": 1})})
    for loader in (detection_train_loader(grey).epoch(0), detection_val_loader(grey, rank=1, world_size=2)):
        for batch in loader:
            assert {image.shape[0] for image in batch.images} == {1}
    five = grey.model_copy(update={"model": grey.model.model_copy(update={"in_chans": 5})})
    with pytest.raises(UsageError, match="in_chans=5"):
        detection_train_loader(five)


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


def test_a_class_without_objects_is_told_in_training(tmp_path):
    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 9, "name": "no\nowl"})

    for split in ("train", "val"):
        make_split(tmp_path, split, 4, change=change)
    four = {"num_classes": 4}
    assert opened(tmp_path, "train", task=four).notes == ["1 of 4 classes without objects: no\\nowl"]
    assert opened(tmp_path, task=four).notes == []


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


def test_ids_with_gaps_become_labels_without(tmp_path):
    make_split(tmp_path, "val", 5, ids=(7, 90, 3))
    dataset = opened(tmp_path)
    # by id: bird 3, cat 7, dog 90
    assert dataset.classes == ["bird", "cat", "dog"]
    assert dataset.category_ids == [3, 7, 90]
    assert dataset[0].target["labels"].tolist() == [2]
    assert dataset.ground_truth()["annotations"][0]["category_id"] == 7


def test_a_model_s_classes_decide_by_name(tmp_path):
    make_split(tmp_path, "val", 5, names=("dog", "cat"))
    trained = Trained(list(NAMES), True, "best.pt")
    dataset = opened(tmp_path, trained=trained)
    assert dataset.classes == ["cat", "dog", "bird"]
    assert dataset[0].target["labels"].tolist() == [2]
    truth = dataset.ground_truth()
    assert [each["name"] for each in truth["categories"]] == ["cat", "dog", "bird"]
    assert [each["id"] for each in truth["categories"]] == [1, 2, 3]
    assert truth["annotations"][0]["category_id"] == 2
    assert opened(tmp_path, task={"classes": ["bird", "dog", "cat"]})[0].target["labels"].tolist() == [2]


def test_other_classes_than_a_model_s_are_refused(tmp_path):
    make_split(tmp_path, "val", 5, names=("dog", "owl", "bat"))
    with pytest.raises(UsageError, match=r"best.pt has other classes than .*: not 'owl', 'bat', but 'cat', 'dog'"):
        opened(tmp_path, trained=Trained(list(NAMES), True, "best.pt"))
    unnamed = Trained(["0", "1", "2", "3"], False, "released.pt")
    with pytest.raises(UsageError, match="by number alone"):
        opened(tmp_path, trained=unnamed)
    found = opened(tmp_path, trained=Trained(["0", "1", "2"], False, "released.pt"))
    assert found.classes == ["0", "1", "2"]
    assert found[0].target["labels"].tolist() == [1]


def test_names_that_are_numbers_are_names(tmp_path):
    make_split(tmp_path, "val", 5, names=("3", "1"))
    digits = Trained([str(digit) for digit in range(10)], False, "digits.pt")
    assert opened(tmp_path, trained=digits)[0].target["labels"].tolist() == [4]


def test_another_number_of_classes_is_refused(folder):
    with pytest.raises(OtherClasses) as error:
        detection_train_loader(config(folder, task={"num_classes": 80}))
    assert str(error.value) == ("the data has 3 classes, but task.num_classes is 80; add task.num_classes=3")
    assert error.value.found == 3


def test_evaluation_covers_every_image_once_and_pads(folder):
    settings = config(folder, batch_size=2)
    loaders = [detection_val_loader(settings, rank=rank, world_size=2) for rank in range(2)]
    batches = [list(loader) for loader in loaders]
    assert len(loaders[0]) == len(loaders[1]) == len(batches[0]) == len(batches[1]) == 2
    rows = [
        (index, weight, int(target["image_id"]))
        for each in batches
        for batch in each
        for index, weight, target in zip(batch.index.tolist(), batch.weights.tolist(), batch.targets, strict=True)
    ]
    assert sorted(rows) == [(PADDING, 0.0, -1), *((index, 1.0, 10 + index) for index in range(5))]


def test_a_batch_goes_to_a_device_and_through_a_pipe(folder):
    batch = next(detection_train_loader(config(folder)).epoch(0))
    moved = batch.to("meta", memory_format=torch.channels_last)
    assert {tensor.device.type for tensor in flat((moved.images, moved.targets, moved.weights))} == {"meta"}
    assert moved.index.device.type == "cpu"
    dataset = opened(folder, "train")
    again = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(a, b) for a, b in zip(flat(dataset[1].target), flat(again[1].target), strict=True))


def damage(root: Path, split: str, number: int) -> None:
    (root / split / f"{number:04d}.jpg").write_bytes(b"no image")


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


def test_masks_that_take_gigabytes_are_not_made(folder, monkeypatch):
    monkeypatch.setattr("acmix.data.detection_dataset.MOST_MASKS", 2 * 48 * 32 - 1)
    dataset = opened(folder, "train")
    assert dataset[1].failed == 1
    assert "2 masks of 48×32 pixels take 0.0 GiB" in dataset.why(1)
    assert dataset.why(0) == ""


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
