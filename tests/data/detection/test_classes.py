"""Which label an object has: the annotations' numbers, their names and those of a model."""

from __future__ import annotations

from typing import Any

import pytest

from acmix.data import Trained
from acmix.data.dataset import OtherClasses
from acmix.data.detection import detection_train_loader
from acmix.errors import UsageError
from tests.support.coco import NAMES, make_split
from tests.support.detection import config, opened


def test_a_class_without_objects_is_told_in_training(tmp_path):
    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 9, "name": "no\nowl"})

    for split in ("train", "val"):
        make_split(tmp_path, split, 4, change=change)
    four = {"num_classes": 4}
    assert opened(tmp_path, "train", task=four).notes == ["1 of 4 classes without objects: no\\nowl"]
    assert opened(tmp_path, task=four).notes == []


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
