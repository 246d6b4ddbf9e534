"""The parts of a detector's report: AP, precision against recall, the classes, the images with the most mistakes."""

# n detections of an image

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from acmix.tasks.detect.average_precision import annotations_of, average_precision, matched, once_each, unique_names
from acmix.tasks.detect.results import Detections, check_installed, pack
from acmix.tasks.evaluation import Evaluation
from acmix.tools.charts import Chart, chart
from acmix.tools.drawing import Colour, Tagged, draw_tags, enlarged, short
from acmix.tools.mistakes import Boxes, Mistakes, mistakes_of
from acmix.tools.predictions import watched
from acmix.tools.worst import Picture, Worst, data_uri, small_copy
from acmix.train import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# detections that count as said
SCORE = 0.5
# classes whose curves are drawn
MOST_CURVES = 30
RIGHT, MISSED, WRONG = (23, 128, 61), (214, 40, 40), (240, 140, 0)
# the twelve numbers, as a page calls them
TWELVE = {
    "ap": "AP",
    "ap50": "AP at IoU 0.50",
    "ap75": "AP at IoU 0.75",
    "ap_small": "AP, small",
    "ap_medium": "AP, medium",
    "ap_large": "AP, large",
    "ar1": "AR, 1 detection",
    "ar10": "AR, 10 detections",
    "ar100": "AR, 100 detections",
    "ar_small": "AR, small",
    "ar_medium": "AR, medium",
    "ar_large": "AR, large",
}


@dataclass(frozen=True)
class WorstImage:
    """An image with what the detector made of it."""

    file: str
    image: Tensor
    told: Mistakes


@dataclass(frozen=True)
class Looked:
    """A detector on a validation split.

    Args:
        result: its measures.
        precision: by kind ("box", "mask"): (10 thresholds, 101 recalls, classes) from 0 to 1, -1 where a class has no
            object.
        names: of the classes, as in `result.by_class`.
        worst: the images with the most mistakes.
        images: how many were counted; `perfect` of them without a mistake.
    """

    result: Evaluation
    precision: dict[str, np.ndarray[Any, Any]]
    names: list[str]
    worst: list[WorstImage]
    images: int
    perfect: int


def look(model: nn.Module, loader: Any, device: torch.device, *, with_masks: bool, limit: int) -> Looked:
    """Runs a detector over its validation images once.

    Args:
        model: in evaluation mode.
        loader: gives `DetectionBatch`; its dataset has `ground_truth()`, `classes` and `name(index)`.
        device: where the model lies.
        with_masks: whether masks are measured.
        limit: how many images to keep.

    Raises:
        UsageError: the package that measures is missing.
    """
    check_installed()
    found: list[Detections] = []
    worst: Worst[WorstImage] = Worst(limit)
    names, perfect = list(loader.dataset.classes), 0
    for batch in watched(loader):
        for row, weight in enumerate(batch.weights.tolist()):
            if weight == 0:
                continue
            with torch.inference_mode():
                [prediction] = model([batch.images[row].to(device)])
            found.append(pack(int(batch.index[row]), prediction, with_masks=with_masks))
            told = compare(found[-1], batch.targets[row], names)
            perfect += told.count == 0
            if told.count and worst.would_take(told.count):
                file = str(loader.dataset.name(int(batch.index[row])))
                worst.offer(told.count, WorstImage(file, batch.images[row].clone(), told))
    truth = loader.dataset.ground_truth()
    result = average_precision(truth, found, with_masks=with_masks)
    each_once = once_each(found)
    annotations = annotations_of(truth, each_once)
    kinds = ("box", "mask") if with_masks else ("box",)
    precision = {kind: matched(truth, annotations, each_once, kind)[0][..., 0, 2] for kind in kinds}
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    return Looked(result, precision, unique_names(categories), worst.chosen(), result.images, perfect)


def compare(found: Detections, target: Mapping[str, Tensor], names: Sequence[str]) -> Mistakes:
    """The account of one image, of the detections that are sure enough."""
    boxes, labels, crowd = (target[key].cpu().numpy() for key in ("boxes", "labels", "iscrowd"))
    said = Boxes(found.boxes, found.labels, found.scores)
    return mistakes_of(said[found.scores >= SCORE], Boxes(boxes, labels, np.ones(len(labels))), crowd > 0, names)


def sections(looked: Looked, root: Path | None = None) -> dict[str, Any]:
    """What the page shows, as plain values; files below `root` are named from there."""
    kinds = list(looked.precision)
    metrics = looked.result.metrics
    head = ["Measure", *({"box": "Boxes", "mask": "Masks"}[kind] for kind in kinds)]
    twelve = [[title, *(metrics.get(f"{kind}_{key}") for kind in kinds)] for key, title in TWELVE.items()]
    return {
        "kinds": kinds,
        "twelve_head": head,
        "twelve": twelve,
        "classes": class_rows(looked.result.by_class),
        "overall": [overall_chart(looked, kind) for kind in kinds],
        "by_class": class_charts(looked),
        "worst": [drawn(each, looked.names, root) for each in looked.worst],
        "images": looked.images,
        "perfect": looked.perfect,
        "score": SCORE,
    }


@dataclass(frozen=True)
class ClassRow:
    """One class: its objects, and its measures in percent, None where nothing can be said."""

    name: str
    objects: int
    measures: dict[str, float | None]


def class_rows(by_class: Mapping[str, Mapping[str, float | None]]) -> list[ClassRow]:
    """Every class that has an object, the worst first; then the others."""
    rows = [ClassRow(name, int(each.get("objects") or 0), dict(each)) for name, each in by_class.items()]
    key = "mask_ap" if any("mask_ap" in row.measures for row in rows) else "box_ap"
    return sorted(rows, key=lambda row: (row.measures.get(key) is None, row.measures.get(key) or 0.0))


def overall_chart(looked: Looked, kind: str) -> Chart:
    """Precision against recall, the mean over the classes, at two thresholds."""
    precision = looked.precision[kind]

    def draw(axes: Axes) -> None:
        for place, colour in ((0, plots.VALIDATION), (5, plots.TOP5)):
            curve(axes, mean_precision(precision[place]), colour, f"IoU {0.5 + 0.05 * place:.2f}")
        finish(axes, legend=True)

    return chart(f"{'Boxes' if kind == 'box' else 'Masks'}: precision against recall, mean of the classes, %", draw)


def class_charts(looked: Looked) -> list[tuple[str, Chart]]:
    """The curves of each class that has objects, the hardest first."""
    charts = []
    for row in [row for row in class_rows(looked.result.by_class) if row.objects][:MOST_CURVES]:
        place = looked.names.index(row.name)

        def draw(axes: Axes, place: int = place) -> None:
            colours = {"box": plots.ATTENTION, "mask": plots.CONVOLUTION}
            for kind, precision in looked.precision.items():
                curve(axes, precision[0, :, place], colours[kind], kind)
            finish(axes, legend=False)

        charts.append((row.name, chart(f"Precision against recall of {row.name}", draw, width=200, height=135)))
    return charts


def mean_precision(precision: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The mean (101,) over the classes that have objects, of (101, classes)."""
    known = precision[:, (precision > -1).all(0)]
    return known.mean(1) if known.size else np.full(len(precision), np.nan)


def curve(axes: Axes, precision: np.ndarray[Any, Any], colour: str, label: str) -> None:
    """One line (101,) of precision at the recalls 0, 0.01 … 1."""
    axes.plot(np.linspace(0, 100, len(precision)), 100 * precision, color=colour, label=label)


def finish(axes: Axes, *, legend: bool) -> None:
    """Labels, and the whole range, so that charts compare."""
    plots.finish(axes, "", x_label="recall %", legend=legend)
    axes.set_xlim(0, 101)
    axes.set_ylim(-2, 103)
    axes.set_xticks(range(0, 101, 25))
    axes.set_yticks(range(0, 101, 25))


def drawn(one: WorstImage, names: Sequence[str], root: Path | None = None) -> Picture:
    """An image with its mistakes on it."""
    told = one.told
    picture, factor = small_copy(one.image)
    canvas, times = enlarged(picture)
    tags = [*tagged(told.right, names, RIGHT)]
    tags += tagged(told.missed, names, MISSED, is_dashed=True, text="missed {name}")
    tags += tagged(told.wrong, names, WRONG, text="{name} {score:.2f}")
    said = [
        f"{names[label - 1]} {score:.2f}: {why}"
        for label, score, why in zip(told.wrong.labels, told.wrong.scores, told.why, strict=True)
    ]
    lines = (
        f"{len(told.right)} right, {len(told.missed)} missed, {len(told.wrong)} wrong",
        *([f"Missed: {counted(told.missed.labels, names)}"] if len(told.missed) else []),
        *([f"Wrong: {listed(said)}"] if said else []),
    )
    file = Path(one.file)
    title = file.relative_to(root).as_posix() if root is not None and file.is_relative_to(root) else one.file
    return Picture(data_uri(draw_tags(canvas, tags, factor * times)), title, lines)


def tagged(
    boxes: Boxes, names: Sequence[str], colour: Colour, *, is_dashed: bool = False, text: str = ""
) -> list[Tagged]:
    """Boxes with their texts."""
    return [
        Tagged(tuple(corners), text.format(name=short(names[int(label) - 1]), score=score), colour, is_dashed)
        for corners, label, score in zip(
            boxes.corners.tolist(), boxes.labels.tolist(), boxes.scores.tolist(), strict=True
        )
    ]


def counted(labels: np.ndarray[Any, Any], names: Sequence[str]) -> str:
    """Classes with how often each occurs: "cat, 2 dog"."""
    kinds, counts = np.unique(labels, return_counts=True)
    return listed(
        [
            f"{count} {names[int(kind) - 1]}" if count > 1 else names[int(kind) - 1]
            for kind, count in zip(kinds, counts, strict=True)
        ]
    )


def listed(parts: Sequence[str]) -> str:
    """The first six, and how many more there are."""
    return ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
