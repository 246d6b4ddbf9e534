"""The parts of a segmenter's report: IoU by class, classes that are confused, and the images it labels worst."""

# K classes · h, w height and width of an image as the model sees it, H, W of its label map

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from acmix.config import Config
from acmix.data.image import normalisation
from acmix.errors import UsageError
from acmix.tasks.evaluation import LABELS, Evaluation
from acmix.tasks.segment.confusion import IGNORED, count_pixels, measures
from acmix.tasks.segment.inference import best_classes, logits_at_its_size
from acmix.tools.drawing import blended, colour_of, short, veiled
from acmix.tools.predictions import Predictions, watched
from acmix.tools.worst import LARGEST, Worst, data_uri, small_copy


@dataclass(frozen=True)
class WorstImage:
    """An image (3, h, w) from 0 to 1, its label map (H, W), 255 where a pixel does not count, and the model's."""

    file: str
    image: Tensor
    true: np.ndarray[Any, Any]
    said: np.ndarray[Any, Any]
    miou: float


@dataclass(frozen=True)
class Looked:
    """A segmenter on a validation split.

    Args:
        result: its measures.
        predicted: names and the confusion (K, K) in pixels.
        worst: the images of the lowest mean IoU.
    """

    result: Evaluation
    predicted: Predictions
    worst: list[WorstImage]


def look(model: nn.Module, loader: Any, device: torch.device, config: Config, limit: int) -> Looked:
    """Runs a segmenter over its validation images once.

    Args:
        model: in evaluation mode.
        loader: gives `SegmentationBatch`; its dataset has `classes` and `name(index)`.
        device: where the model lies.
        config: says how images are normalised, and whether they are seen in windows.
        limit: how many images to keep.
    """
    task, names = config.task, list(loader.dataset.classes)
    crop, stride = (task.crop_sides, task.stride) if task.sliding else (None, None)
    mean, std = normalisation(config.data, config.model.in_chans)
    scale, offset = (torch.tensor(stats).view(-1, 1, 1) for stats in (std, mean))
    total = torch.zeros(len(names), len(names), dtype=torch.int64)
    worst: Worst[WorstImage] = Worst(limit)
    images = 0
    for batch in watched(loader):
        for row, weight in enumerate(batch.weights.tolist()):
            if weight == 0:
                continue
            images += 1
            image, true = batch.images[row], batch.targets[row].cpu()
            with torch.inference_mode():
                logits = logits_at_its_size(model, image.to(device), crop=crop, stride=stride)
                said = best_classes(logits, (true.shape[0], true.shape[1])).cpu()
            matrix = count_pixels(said, true, len(names))
            total += matrix
            miou = mean_iou(matrix)
            if miou is not None and worst.would_take(-miou):
                kept = WorstImage(
                    str(loader.dataset.name(int(batch.index[row]))),
                    image.cpu() * scale + offset,
                    true.numpy(),
                    said.numpy(),
                    miou,
                )
                worst.offer(-miou, kept)
    if images == 0:
        raise UsageError("none of the validation images could be read; check that they are image files")
    return Looked(measures(total, names, images=images), Predictions(names, total, []), worst.chosen())


def mean_iou(matrix: Tensor) -> float | None:
    """Of one image, in percent, over the classes that its labels have; None where no pixel counts."""
    right, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    there = true > 0
    if not there.any():
        return None
    return float((100 * right[there] / (true + said - right)[there]).mean())


@dataclass(frozen=True)
class ClassRow:
    """One class: its pixels, and its measures in percent, None where nothing can be said."""

    name: str
    pixels: int
    iou: float | None
    accuracy: float | None


def class_rows(by_class: Mapping[str, Mapping[str, float | None]]) -> list[ClassRow]:
    """Every class, the worst first; those that do not occur last."""
    rows = [
        ClassRow(name, int(each.get("pixels") or 0), each.get("iou"), each.get("accuracy"))
        for name, each in by_class.items()
    ]
    return sorted(rows, key=lambda row: (row.iou is None, row.iou or 0.0))


@dataclass(frozen=True)
class Swatch:
    """A class of an image's legend, in a colour of CSS."""

    name: str
    colour: str


@dataclass(frozen=True)
class Triple:
    """An image, its label map and the model's, as pictures for a page."""

    file: str
    miou: float
    image: str
    true: str
    said: str
    legend: list[Swatch]


def sections(looked: Looked) -> dict[str, Any]:
    """What the page shows, as plain values."""
    metrics = looked.result.metrics
    return {
        "measures": [(LABELS[name], metrics.get(name)) for name in ("miou", "mean_accuracy", "pixel_accuracy")],
        "classes": class_rows(looked.result.by_class),
        "worst": [drawn(each, looked.predicted.classes) for each in looked.worst],
        "images": looked.result.images,
    }


def drawn(one: WorstImage, names: Sequence[str]) -> Triple:
    """An image beside what it shows and what the model says."""
    picture, _ = small_copy(one.image)
    size = fitting(one.true.shape[1], one.true.shape[0])
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    true, said = resized(one.true, size), resized(one.said, size)
    there = np.union1d(true[true != IGNORED], said)
    legend = [Swatch(short(names[int(label)]), css(label)) for label in there.tolist() if label < len(names)]
    return Triple(
        one.file,
        one.miou,
        data_uri(picture),
        data_uri(veiled(picture, true, IGNORED)),
        data_uri(veiled(picture, said)),
        legend,
    )


def fitting(width: int, height: int) -> tuple[int, int]:
    """The size of a picture on a page; three stand side by side."""
    factor = min(1.0, LARGEST / 1.5 / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def resized(labels: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """A label map at the size (width, height) of a picture, by the nearest pixel."""
    return np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))


def css(label: int) -> str:
    """A class's colour as CSS writes it."""
    red, green, blue = blended(colour_of(label))
    return f"#{red:02x}{green:02x}{blue:02x}"
