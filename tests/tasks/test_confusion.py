"""mIoU and accuracies are those of a loop over every pixel, on any number of processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from acmix.benchmark.evaluators import by_plain_loop, flat, largest_difference, segment_names
from acmix.benchmark.oddities import SEGMENT_ABSENT, SEGMENT_CLASSES, SEGMENT_UNLABELLED, odd_label_maps
from acmix.errors import UsageError
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.segment.confusion import count_pixels, measures

EXACT = 1e-12


def counted(maps: list[tuple[Any, Any]], classes: int) -> torch.Tensor:
    """All pixels of predictions and labels."""
    return torch.stack([count_pixels(torch.from_numpy(p), torch.from_numpy(t), classes) for p, t in maps]).sum(dim=0)


def test_every_number_is_that_of_a_plain_loop_on_maps_with_every_oddity() -> None:
    maps = odd_label_maps(200)
    ours = measures(counted(maps, SEGMENT_CLASSES), segment_names(), images=len(maps))
    plain = by_plain_loop(maps)
    differences = (
        largest_difference(ours.metrics, plain.metrics),
        largest_difference(flat(ours.by_class), flat(plain.by_class)),
    )
    print(f"200 label maps: largest differences from a plain loop {differences}")
    assert max(differences) < EXACT
    assert [*ours.metrics] == ["miou", "mean_accuracy", "pixel_accuracy"]
    assert ours.by_class[f"class {SEGMENT_ABSENT}"] == {"iou": None, "accuracy": None, "pixels": 0}
    # in predictions alone: an IoU of 0 that counts, and no accuracy
    assert ours.by_class[f"class {SEGMENT_UNLABELLED}"] == {"iou": 0.0, "accuracy": None, "pixels": 0}
    assert ours.lines[-1] == f"1 of {SEGMENT_CLASSES} classes, which occur nowhere, are not in the mean IoU"


def small(predicted: list[int], labels: list[int], classes: int) -> Evaluation:
    """The measures of one map of a row."""
    matrix = count_pixels(torch.tensor([predicted]), torch.tensor([labels]), classes)
    return measures(matrix, [f"class {number}" for number in range(classes)], images=1)


def test_measures_of_a_few_pixels_are_those_counted_by_hand() -> None:
    result = small([0, 0, 1, 1, 1], [0, 0, 0, 1, 255], 2)
    assert result.metrics == {
        "miou": pytest.approx(100 * (2 / 3 + 1 / 2) / 2),
        "mean_accuracy": pytest.approx(100 * (2 / 3 + 1) / 2),
        "pixel_accuracy": pytest.approx(75),
    }
    assert result.by_class["class 0"]["pixels"] == 3
    assert result.lines == ("mean IoU        58.33 %", "mean accuracy   83.33 %", "pixel accuracy  75.00 %")


def test_without_a_labelled_pixel_all_is_zero_and_that_is_said() -> None:
    result = small([0, 1], [255, 255], 2)
    assert result.metrics == {"miou": 0.0, "mean_accuracy": 0.0, "pixel_accuracy": 0.0}
    assert result.lines == ("no pixel has a label: IoU and accuracy are not defined, and given as 0",)


def test_a_label_that_is_no_class_is_one_error() -> None:
    with pytest.raises(UsageError, match="a label map holds 2, which is neither one of 2 classes, 0 to 1, nor 255"):
        small([0, 1], [0, 2], 2)


def test_counts_beyond_float_s_whole_numbers_stay_exact() -> None:
    matrix = torch.tensor([[2**53 + 1, 0], [1, 2**53]])
    assert matrix.sum().item() == 2**54 + 2
    result = measures(matrix, ["a", "b"], images=1)
    assert result.by_class["a"]["pixels"] == 2**53 + 1
    assert result.metrics["pixel_accuracy"] == pytest.approx(100)


def test_classes_of_one_name_are_numbered() -> None:
    assert [*measures(torch.eye(3, dtype=torch.int64), ["a", "b", "a"], images=1).by_class] == ["a (1)", "b", "a (3)"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_are_counted_in_any_whole_format(dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 200, (20, 30))).to(dtype)
    matrix = count_pixels(labels, labels, 200)
    assert matrix.dtype == torch.int64
    assert math.isclose(matrix.diagonal().sum().item(), 600)
