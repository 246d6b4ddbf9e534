"""COCO's average precision of boxes and masks: the twelve numbers of each, and AP by class.

faster-coco-eval counts the matches; pycocotools gives the same numbers and is its oracle in the tests. Every image
counts once and images are put in order, so that the result has the same bits on any number of processes.

AP is the mean over the IoU thresholds 0.50, 0.55 … 0.95 and over the categories of the precision at 101 recalls; AR is
the mean of the largest recall. At most 100 detections of a category count in an image. A crowd counts neither as found
nor as missed, and what lies in it is no false detection. The area of a detection, for the numbers by size, is its box's
for boxes and its mask's for masks, as Detectron2 and MMDetection have it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Literal

import numpy as np

from acmix.data.coco import without_collection
from acmix.errors import UsageError
from acmix.tasks.detect.results import Detections, check_installed, coco_results
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.measuring import by_first, gathered

Array = np.ndarray[Any, Any]
# detections that are matched at once; some 130 MB with masks
MOST_ROWS = 2**15
# what is measured, and the name that COCO has for it
KINDS: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}


@dataclass(frozen=True)
class Number:
    """One of the twelve.

    Args:
        name: of the metric, after `box_` or `mask_`.
        is_precision: AP rather than AR.
        iou: the threshold; None for the mean over all.
        area: of the objects.
        most: detections of a category that count in an image.
    """

    name: str
    is_precision: bool
    iou: float | None = None
    area: str = "all"
    most: int = 100

    def line(self, value: float | None) -> str:
        """The number as pycocotools prints it, 0 to 1, and -1 where there is no object to find."""
        title = "Average Precision  (AP)" if self.is_precision else "Average Recall     (AR)"
        iou = "0.50:0.95" if self.iou is None else f"{self.iou:<9.2f}"
        share = -1.0 if value is None else value / 100
        return f" {title} @[ IoU={iou} | area={self.area:>6} | maxDets={self.most:>3} ] = {share:.3f}"


NUMBERS = (
    Number("ap", True),
    Number("ap50", True, iou=0.5),
    Number("ap75", True, iou=0.75),
    Number("ap_small", True, area="small"),
    Number("ap_medium", True, area="medium"),
    Number("ap_large", True, area="large"),
    Number("ar1", False, most=1),
    Number("ar10", False, most=10),
    Number("ar100", False),
    Number("ar_small", False, area="small"),
    Number("ar_medium", False, area="medium"),
    Number("ar_large", False, area="large"),
)


def average_precision(
    truth: Mapping[str, Any],
    detections: Iterable[Detections],
    *,
    with_masks: bool,
    group: Any = None,
) -> Evaluation:
    """Measures detections against the ground truth, exactly. Every process calls it with its own detections.

    Args:
        truth: COCO's `images`, `categories` and `annotations`; ids may have gaps, and need not be unique among the
            annotations. `Detections.image` is an index of `images`, and label k the category of the k-th smallest id.
        detections: one for each image that was read; images without are not counted, and an image counts once.
        with_masks: whether masks are measured, too.
        group: of processes; the default group by default.

    Returns:
        The same on every process: the metrics `box_ap` … `box_ar_large` and, with masks, `mask_ap` … `mask_ar_large`;
        by class `box_ap`, `box_ap50`, `mask_ap`, `mask_ap50` and `objects`, how many there are besides crowds. The AP
        of a class without an object is None, and a metric of a size that no object has is left out. Where there is no
        object at all, the metrics of all sizes are 0, and a line says so.

    Raises:
        UsageError: faster-coco-eval is not installed, no image was read, a label has no category, or an annotation has
            no mask where masks are measured.
    """
    check_installed()
    everyone = gathered(list(detections), group)
    with without_collection():
        return by_first(lambda: measure(truth, everyone, with_masks=with_masks), group)


def measure(truth: Mapping[str, Any], detections: Sequence[Detections], *, with_masks: bool) -> Evaluation:
    """Measures all detections in this process alone; see `average_precision`."""
    found = once_each(detections)
    if not found:
        raise UsageError("none of the validation images could be read; check that they are image files")
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    check_labels(found.values(), len(categories))
    annotations = annotations_of(truth, found)
    objects = Counter(annotation["category_id"] for annotation in annotations if not annotation["iscrowd"])
    names = unique_names(categories)
    by_class: dict[str, dict[str, float | None]] = {name: {} for name in names}
    metrics: dict[str, float] = {}
    lines: list[str] = []
    lacks_areas = False
    for kind in ("box", "mask") if with_masks else ("box",):
        precision, recall = matched(truth, annotations, found, kind)
        numbers = {number: mean_of(number, precision, recall) for number in NUMBERS}
        lacks_areas |= None in numbers.values()
        for number, value in numbers.items():
            if value is not None or number.area == "all":
                metrics[f"{kind}_{number.name}"] = value or 0.0
        lines += [f"{'boxes' if kind == 'box' else 'masks'}:"] if with_masks else []
        lines += [number.line(value) for number, value in numbers.items()]
        for row, name in enumerate(names):
            of_class = slice(row, row + 1)
            for number in NUMBERS[:2]:
                value = mean_of(number, precision[:, :, of_class], recall[:, of_class])
                by_class[name][f"{kind}_{number.name}"] = value
    for name, category in zip(names, categories, strict=True):
        by_class[name]["objects"] = objects[category["id"]]
    lines += remarks(found.values(), objects, lacks_areas=lacks_areas)
    return Evaluation(metrics, images=len(found), by_class=by_class, lines=tuple(lines))


def once_each(detections: Iterable[Detections]) -> dict[int, Detections]:
    """The first detections of each image, in the order of the images."""
    found: dict[int, Detections] = {}
    for each in detections:
        assert isinstance(each.image, int)
        found.setdefault(each.image, each)
    return dict(sorted(found.items()))


def check_labels(found: Iterable[Detections], categories: int) -> None:
    """Refuses the detections of a model that knows more classes than the data."""
    largest = max((int(each.labels.max()) for each in found if len(each)), default=0)
    if largest > categories:
        raise UsageError(
            f"the model found class {largest}, and the data has {categories} categories; evaluate it on data with the "
            "classes it was trained on"
        )


def annotations_of(truth: Mapping[str, Any], found: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """Copies of the annotations of the images that count, numbered from 1: to COCO's evaluators, 0 means none."""
    counted = {truth["images"][index]["id"] for index in found}
    return [
        {**annotation, "iscrowd": int(annotation.get("iscrowd", 0)), "id": number}
        for number, annotation in enumerate(truth["annotations"], start=1)
        if annotation["image_id"] in counted
    ]


def unique_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of categories, in their order; with the id where two have the same."""
    count = Counter(str(category["name"]) for category in categories)
    return [
        str(category["name"]) if count[str(category["name"])] == 1 else f"{category['name']} ({category['id']})"
        for category in categories
    ]


def matched(
    truth: Mapping[str, Any], annotations: Sequence[dict[str, Any]], found: Mapping[int, Detections], kind: str
) -> tuple[Array, Array]:
    """Matches detections with objects, some categories at a time, as a detection takes kilobytes meanwhile.

    Returns:
        The precision (10 thresholds, 101 recalls, categories, 4 areas, 3 limits) and the recall (10, categories, 4, 3);
        -1 where a category has no object.
    """
    if kind == "mask":
        check_masks(annotations)
    ids = sorted(category["id"] for category in truth["categories"])
    counts = sum((np.bincount(each.labels, minlength=len(ids) + 1) for each in found.values()), np.zeros(1, np.int64))
    precisions, recalls = [], []
    for labels in groups(counts[1:].tolist()):
        of_group = {ids[label - 1] for label in labels}
        objects = [dict(row) for row in annotations if row["category_id"] in of_group]
        guesses = rows_of(truth, {index: of_labels(each, labels) for index, each in found.items()}, kind)
        images = [dict(truth["images"][index]) for index in found]
        precision, recall = matched_at_once(images, sorted(of_group), objects, guesses, kind)
        precisions.append(precision)
        recalls.append(recall)
    return np.concatenate(precisions, axis=2), np.concatenate(recalls, axis=1)


def groups(counts: Sequence[int]) -> Iterator[range]:
    """Labels, from 1, in runs of as many detections as are matched at once; one label at least."""
    start, total = 0, 0
    for row, count in enumerate(counts):
        if row > start and total + count > MOST_ROWS:
            yield range(start + 1, row + 1)
            start, total = row, 0
        total += count
    yield range(start + 1, len(counts) + 1)


def of_labels(found: Detections, labels: range) -> Detections:
    """The detections of some labels, in their order."""
    kept = (found.labels >= labels.start) & (found.labels < labels.stop)  # (n,)
    masks = None if found.masks is None else tuple(compress(found.masks, kept.tolist()))
    return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept], masks=masks)


def matched_at_once(
    images: Sequence[Any], ids: Sequence[int], objects: Sequence[Any], guesses: Sequence[Any], kind: str
) -> tuple[Array, Array]:
    """The precision and the recall of the categories of some ids."""
    from faster_coco_eval import COCO, COCOeval_faster

    sides = []
    for rows in (objects, guesses):
        side = COCO()
        side.dataset = {"images": images, "categories": [{"id": each} for each in ids], "annotations": rows}
        side.createIndex()
        sides.append(side)
    quiet = logging.getLogger(__name__).debug
    evaluator: Any = COCOeval_faster(sides[0], sides[1], KINDS[kind], print_function=quiet)
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def check_masks(annotations: Iterable[Mapping[str, Any]]) -> None:
    """Refuses objects without a mask where masks are measured."""
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise UsageError(
                f"an object in the image of id {annotation['image_id']} has no segmentation, and masks are measured; "
                "remove it from the annotations, or use a detector of boxes alone"
            )


def rows_of(truth: Mapping[str, Any], found: Mapping[int, Detections], kind: str) -> list[dict[str, Any]]:
    """Detections as the evaluator takes them: results with an id, an area and no crowd."""
    from faster_coco_eval.core import mask

    ids = sorted(category["id"] for category in truth["categories"])
    rows: list[dict[str, Any]] = []
    for index, each in found.items():
        results = coco_results(each, ids, image_id=truth["images"][index]["id"])
        if kind == "mask":
            assert each.masks is not None
            areas = mask.area([row["segmentation"] for row in results]) if results else ()
        else:
            areas = [row["bbox"][2] * row["bbox"][3] for row in results]
        for row, area in zip(results, areas, strict=True):
            row.update(id=len(rows) + 1, area=float(area), iscrowd=0)
            rows.append(row)
    return rows


def mean_of(number: Number, precision: Array, recall: Array) -> float | None:
    """A number in percent, of the categories with an object; None where none has."""
    area, most = ("all", "small", "medium", "large").index(number.area), (1, 10, 100).index(number.most)
    table = (precision if number.is_precision else recall)[..., area, most]  # (10, [101,] categories)
    if number.iou is not None:
        threshold = round((number.iou - 0.5) / 0.05)
        table = table[threshold : threshold + 1]
    known = table[table > -1]
    return 100 * float(known.mean()) if known.size else None


def remarks(found: Iterable[Detections], objects: Mapping[Any, int], *, lacks_areas: bool) -> list[str]:
    """What a reader of the numbers has to know, a line each."""
    lines = []
    if not sum(objects.values()):
        lines.append("no image has an object to find: AP and AR are not defined, and given as 0")
    elif lacks_areas:
        lines.append("-1.000: no image has an object of that area")
    dropped = sum(each.dropped for each in found)
    if dropped:
        lines.append(f"{dropped} detections without a finite score and box, or of label 0, were left out")
    return lines
