"""Box and mask AP are pycocotools' numbers, on any data and any number of processes."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from acmix.benchmark.evaluators import by_pycocotools, flat, largest_difference, oracle_results, run_pycocotools
from acmix.benchmark.oddities import CATEGORY_IDS, Stored, odd_detections
from acmix.errors import UsageError
from acmix.tasks.detect import average_precision as average_precision_module
from acmix.tasks.detect import results
from acmix.tasks.detect.average_precision import KINDS, average_precision
from acmix.tasks.detect.results import Detections
from acmix.tasks.evaluation import Evaluation
from tests.support.processes import Forked

EXACT = 1e-9
ODD_IMAGES = 30


@pytest.fixture(scope="module")
def stored() -> Stored:
    return odd_detections(ODD_IMAGES)


@pytest.fixture(scope="module")
def ours(stored: Stored) -> Evaluation:
    return average_precision(stored.truth, stored.detections, with_masks=True)


def one_object(**changes: Any) -> dict[str, Any]:
    """Ground truth of two images of 50 × 40, with one object in the first."""
    box = [10.0, 10.0, 20.0, 20.0]
    corners = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0, "bbox": box, "area": 400.0}
    return {
        "images": [{"id": each, "height": 40, "width": 50} for each in (5, 2)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [{**annotation, "segmentation": [corners], **changes}],
    }


def found(image: int, *boxes: tuple[float, float, float, float], label: int = 1, scores: Any = None) -> Detections:
    """Detections of one label, without masks."""
    return Detections(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * len(boxes), np.float32),
        labels=np.full(len(boxes), label, np.int64),
    )


RIGHT = (10.0, 10.0, 30.0, 30.0)


def test_every_number_is_pycocotools_own_on_data_with_every_oddity(stored: Stored, ours: Evaluation) -> None:
    theirs = by_pycocotools(stored)
    assert len(ours.metrics) == 24
    assert [*ours.by_class] == [f"class {each}" for each in sorted(CATEGORY_IDS)]
    differences = (
        largest_difference(ours.metrics, theirs.metrics),
        largest_difference(flat(ours.by_class), flat(theirs.by_class)),
    )
    print(f"{ODD_IMAGES} images: largest differences from pycocotools {differences}")
    assert max(differences) < EXACT
    assert ours.images == ODD_IMAGES


def test_the_twelve_lines_are_those_that_pycocotools_prints(stored: Stored, ours: Evaluation) -> None:
    printed = io.StringIO()
    for kind in KINDS:
        evaluator = run_pycocotools(stored.truth, oracle_results(stored, kind), kind)
        with contextlib.redirect_stdout(printed):
            evaluator.summarize()
    usual = [line for line in printed.getvalue().splitlines() if "Average" in line]
    assert len(usual) == 24
    assert list(ours.lines) == ["boxes:", *usual[:12], "masks:", *usual[12:]]


def of_a_process(folder: str) -> None:
    """One of two processes: it gets every second image, in another order, and the first image as well."""
    dist.init_process_group("gloo")
    rank, stored = dist.get_rank(), odd_detections(ODD_IMAGES)
    mine = [*stored.detections[rank::2], stored.detections[0]][::-1]
    result = average_precision(stored.truth, mine, with_masks=True)
    Path(folder, f"{rank}.json").write_text(json.dumps([result.metrics, result.by_class, result.lines, result.images]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(ours: Evaluation, tmp_path: Path) -> None:
    ends = Forked(of_a_process, str(tmp_path), processes=2).finish()
    assert [(end.status, end.errors) for end in ends] == [(0, "")] * 2
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second == [ours.metrics, ours.by_class, list(ours.lines), ours.images]


def test_categories_matched_a_few_at_a_time_give_the_same_bits(
    stored: Stored, ours: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [*average_precision_module.groups([5, 0, 9, 1])] == [range(1, 5)]
    monkeypatch.setattr(average_precision_module, "MOST_ROWS", 6)
    assert [*average_precision_module.groups([5, 0, 9, 1])] == [range(1, 3), range(3, 4), range(4, 5)]
    assert average_precision(stored.truth, stored.detections, with_masks=True) == ours


def test_an_image_counts_once_and_only_where_it_was_read(stored: Stored) -> None:
    read = stored.detections[: ODD_IMAGES // 2]
    ours = average_precision(stored.truth, [*read, *reversed(read)], with_masks=False)
    ids = {stored.truth["images"][each.image]["id"] for each in read}
    rows = [each for each in stored.truth["annotations"] if each["image_id"] in ids]
    truth = {**stored.truth, "images": stored.truth["images"][: len(read)], "annotations": rows}
    theirs = by_pycocotools(Stored(truth, read))
    boxes = {name: value for name, value in theirs.metrics.items() if name.startswith("box")}
    assert ours.images == len(read)
    assert largest_difference(ours.metrics, boxes) < EXACT


def test_a_class_without_an_object_has_no_ap_and_is_in_no_mean() -> None:
    result = average_precision(one_object(), [found(0, RIGHT), found(1, RIGHT, label=2)], with_masks=False)
    assert result.by_class == {
        "cat": {"box_ap": pytest.approx(100), "box_ap50": pytest.approx(100), "objects": 1},
        "dog": {"box_ap": None, "box_ap50": None, "objects": 0},
    }
    assert result.metrics["box_ap"] == pytest.approx(100)
    # the object is small: nothing can be said of others
    assert "box_ap_small" in result.metrics
    assert "box_ap_large" not in result.metrics
    assert result.lines[5].endswith("area= large | maxDets=100 ] = -1.000")


def test_no_prediction_at_all_is_an_ap_of_zero() -> None:
    result = average_precision(one_object(), [found(0), found(1)], with_masks=False)
    assert (result.metrics["box_ap"], result.metrics["box_ar100"], result.images) == (0.0, 0.0, 2)
    assert result.lines[12:] == ("-1.000: no image has an object of that area",)


@pytest.mark.parametrize("truth", [{**one_object(), "annotations": []}, one_object(iscrowd=1)])
def test_without_an_object_to_find_ap_is_zero_and_that_is_said(truth: dict[str, Any]) -> None:
    result = average_precision(truth, [found(0, RIGHT), found(1)], with_masks=False)
    assert result.metrics == dict.fromkeys(
        (f"box_{each}" for each in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100")), 0.0
    )
    assert result.lines[-1] == "no image has an object to find: AP and AR are not defined, and given as 0"
    assert {name: row["box_ap"] for name, row in result.by_class.items()} == {"cat": None, "dog": None}


@pytest.mark.parametrize("numbers", [(0, 1), (7, 7)])
def test_ids_of_annotations_need_be_neither_above_zero_nor_unique(numbers: tuple[int, int]) -> None:
    truth = one_object()
    [annotation] = truth["annotations"]
    moved = {**annotation, "id": numbers[1], "bbox": [0.0, 0.0, 9.0, 9.0], "area": 81.0}
    truth["annotations"] = [{**annotation, "id": numbers[0]}, moved]
    result = average_precision(truth, [found(0, RIGHT, (0.0, 0.0, 9.0, 9.0))], with_masks=False)
    assert result.metrics["box_ap"] == pytest.approx(100)
    assert result.by_class["cat"]["objects"] == 2


def test_the_ground_truth_is_left_as_it_is() -> None:
    truth = one_object()
    average_precision(truth, [found(0, RIGHT)], with_masks=False)
    assert truth == one_object()


def test_classes_of_one_name_are_told_apart_by_their_ids() -> None:
    truth = one_object()
    for category in truth["categories"]:
        category["name"] = "pet"
    assert [*average_precision(truth, [found(0)], with_masks=False).by_class] == ["pet (3)", "pet (9)"]


def test_what_was_left_out_of_the_predictions_is_said() -> None:
    result = average_precision(one_object(), [replace(found(0, RIGHT), dropped=3)], with_masks=False)
    assert result.lines[-1] == "3 detections without a finite score and box, or of label 0, were left out"


@pytest.mark.parametrize(
    ("truth", "detections", "with_masks", "said"),
    [
        (one_object(), [], False, "none of the validation images could be read"),
        (one_object(), [found(0, RIGHT, label=3)], False, "the model found class 3, and the data has 2 categories"),
        (one_object(segmentation=None), [found(0)], True, "an object in the image of id 5 has no segmentation"),
    ],
)
def test_what_cannot_be_measured_is_one_error(
    truth: dict[str, Any], detections: list[Detections], with_masks: bool, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        average_precision(truth, detections, with_masks=with_masks)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"detection needs faster-coco-eval; run pip install .*detect"):
        average_precision(one_object(), [found(0)], with_masks=False)
