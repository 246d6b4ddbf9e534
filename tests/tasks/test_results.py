"""Predictions are kept small and whole, and written as COCO's results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acmix.tasks.detect import results
from acmix.tasks.detect.results import coco_results, encode, pack

SIZES = [(12, 17), (1, 9), (9, 1), (1, 1)]


def prediction(n: int, size: tuple[int, int], **changes: Any) -> dict[str, Tensor]:
    """n boxes with masks."""
    random = torch.Generator().manual_seed(n)
    corners = torch.rand(n, 2, 2, generator=random).cumsum(dim=1) * 10
    return {
        "boxes": corners.flatten(1),
        "scores": torch.rand(n, generator=random),
        "labels": torch.randint(1, 4, (n,), generator=random),
        "masks": torch.rand(n, 1, *size, generator=random),
        **changes,
    }


@pytest.mark.parametrize("size", SIZES)
def test_encoded_masks_are_pycocotools_codes(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocotools import mask

    # in several pieces
    monkeypatch.setattr(results, "MOST_PIXELS", 2 * size[0] * size[1])
    masks = prediction(5, size)["masks"][:, 0]
    drawn = np.asfortranarray((masks > 0.5).permute(1, 2, 0).to(torch.uint8).numpy())
    codes: Any = mask.encode(drawn)
    assert [*encode(masks)] == [each["counts"] for each in codes]
    assert encode(masks[:0]) == ()


def test_results_are_json_in_coco_s_format() -> None:
    from faster_coco_eval.core import mask

    given = prediction(4, (12, 17))
    rows = json.loads(json.dumps(coco_results(pack(3, given, with_masks=True), [2, 5, 90], image_id=77)))
    assert [row["category_id"] for row in rows] == [[2, 5, 90][label - 1] for label in given["labels"].tolist()]
    assert [row["score"] for row in rows] == given["scores"].tolist()
    assert {row["image_id"] for row in rows} == {77}
    for row, box, drawn in zip(rows, given["boxes"].tolist(), given["masks"][:, 0] > 0.5, strict=True):
        assert row["bbox"] == pytest.approx([box[0], box[1], box[2] - box[0], box[3] - box[1]])
        assert np.array_equal(mask.decode(row["segmentation"]), drawn.numpy())


def test_without_masks_there_is_no_segmentation_and_the_image_names_itself() -> None:
    [row] = coco_results(pack("a.jpg", prediction(1, (3, 3)), with_masks=False), [1, 2, 3])
    assert [*row] == ["image_id", "category_id", "bbox", "score"]
    assert row["image_id"] == "a.jpg"


def test_what_is_no_number_and_what_is_no_class_is_left_out_and_counted() -> None:
    given = prediction(6, (12, 17))
    given["scores"][0] = torch.nan
    given["boxes"][1, 2] = torch.inf
    given["labels"][2] = 0
    packed = pack(0, given, with_masks=True)
    assert (len(packed), packed.dropped) == (3, 3)
    assert packed.masks == encode(given["masks"][3:, 0])
    assert packed.scores.tolist() == given["scores"][3:].tolist()


def test_an_image_without_detections_has_no_results() -> None:
    packed = pack(0, prediction(0, (5, 4)), with_masks=True)
    assert (len(packed), packed.size, packed.masks) == (0, (5, 4), ())
    assert coco_results(packed, [1]) == []
