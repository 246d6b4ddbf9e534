"""What a detector missed and made up in an image."""

from __future__ import annotations

import numpy as np

from acmix.tools.mistakes import Boxes, iou, mistakes_of

NAMES = ["cat", "dog"]


def boxes(*rows: tuple[float, float, float, float, int, float]) -> Boxes:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4].astype(int), table[:, 5])


def account(found: Boxes, objects: Boxes, crowd: tuple[int, ...] = ()) -> tuple[int, list[str], list[int]]:
    is_crowd = np.isin(np.arange(len(objects)), crowd)
    told = mistakes_of(found, objects, is_crowd, NAMES)
    assert told.count == len(told.why) + len(told.missed)
    return len(told.right), told.why, told.missed.labels.tolist()


def test_the_surest_detection_has_the_object_and_others_are_mistakes() -> None:
    objects = boxes((0, 0, 10, 10, 1, 1), (20, 20, 40, 40, 2, 1), (60, 60, 70, 70, 2, 1))
    found = boxes(
        (0, 0, 10, 9, 1, 0.7),  # right, but another is surer
        (0, 0, 10, 10, 1, 0.9),
        (20, 20, 40, 40, 1, 0.8),  # a cat that is a dog
        (60, 60, 70, 63, 2, 0.6),  # too little of it
        (0, 80, 9, 90, 2, 0.5),
    )
    right, why, missed = account(found, objects)
    assert (right, missed) == (1, [2, 2])
    assert why == ["is dog", "found twice", "box is off", "nothing there"]


def test_what_lies_in_a_crowd_of_its_class_is_no_mistake_and_a_crowd_is_not_missed() -> None:
    objects = boxes((0, 0, 100, 100, 1, 1))
    found = boxes((10, 10, 20, 20, 1, 0.9), (10, 10, 20, 20, 2, 0.9))
    assert account(found, objects, (0,)) == (0, ["nothing there"], [])


def test_nothing_found_or_nothing_there() -> None:
    some, none = boxes((0, 0, 10, 10, 1, 1)), boxes()
    assert account(none, some) == (0, [], [1])
    assert account(some, none) == (0, ["nothing there"], [])
    assert account(none, none) == (0, [], [])
    # boxes without an area share nothing
    assert iou(boxes((5, 5, 5, 5, 1, 1)).corners, boxes((5, 5, 5, 5, 1, 1)).corners).tolist() == [[0]]
