"""A run says when most objects are of a size that no anchor has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acmix.data.coco import Coco, read_coco
from acmix.tasks.detect.anchors import odd_anchors
from tests.heads.tiny import detector

SMALL = (14, 15, 16, 17, 60)


def squares(folder: Path, sides: tuple[float, ...], crowds: int = 0) -> Coco:
    """An image of 100 × 200 pixels with squares of these sides, and some crowds of 90."""
    objects = [*((side, 0) for side in sides), *((90, 1),) * crowds]
    content = {
        "images": [dict(id=1, file_name="1.png", width=200, height=100)],
        "categories": [dict(id=1, name="square")],
        "annotations": [
            dict(id=i + 1, image_id=1, category_id=1, bbox=[0, 0, side, side], area=side * side, iscrowd=crowd)
            for i, (side, crowd) in enumerate(objects)
        ],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_coco(file, with_outlines=False)


@pytest.mark.parametrize(("head", "advised"), [("retinanet", 2), ("mask_rcnn", 4)])
def test_objects_smaller_than_anchors_are_told_with_what_helps(head: str, advised: float, tmp_path: Path) -> None:
    coco = squares(tmp_path, SMALL, crowds=9)
    sizes: dict[str, Any] = dict(min_size=100, max_size=1000)
    (said,) = odd_anchors(detector(head, **sizes), coco)
    assert said == (
        "80% of the training objects overlap no anchor by half, wherever they are: they are of 16 pixels (the median, "
        f"scaled to task.min_size), and the smallest anchors of 32; task.args.anchor_scale={advised} leaves 0%"
    )
    assert odd_anchors(detector(head, **sizes, anchor_scale=advised), coco) == []
    assert odd_anchors(detector(head, min_size=200, max_size=1000), coco) == []
    # the longer side is what limits it
    assert odd_anchors(detector(head, min_size=200, max_size=200), coco) == [said]


@pytest.mark.parametrize(
    ("head", "sides"),
    [
        ("fcos", SMALL),
        ("mask_rcnn", ()),
        # three of five have an anchor
        ("mask_rcnn", (14, 15, 33, 40, 60)),
    ],
)
def test_nothing_is_said_of_points_of_no_objects_and_of_few(
    head: str, sides: tuple[float, ...], tmp_path: Path
) -> None:
    assert odd_anchors(detector(head, min_size=100, max_size=1000), squares(tmp_path, sides)) == []


def test_nothing_is_said_where_no_other_size_would_help(tmp_path: Path) -> None:
    coco = squares(tmp_path, (32,))
    coco.boxes[:, 2:] = (4, 96)
    assert odd_anchors(detector("retinanet", min_size=100, max_size=1000), coco) == []
