"""Runs a classifier over its validation images and keeps what a reader wants to see.

B batch, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from acmix.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """One image and what the model said: `image` is (C, H, W) as the model saw it, classes are indices."""

    image: Tensor
    name: str
    target: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Predictions:
    """What a model says about a data set: `confusion` (K, K) counts images; rows are true, columns predicted."""

    classes: list[str]
    confusion: Tensor
    samples: list[Sample]


def collect_predictions(model: nn.Module, loader: Any, classes: Sequence[str], limit: int) -> Predictions:
    """Predicts every validation image once.

    Args:
        model: images (B, C, H, W) -> logits (B, K), in evaluation mode, on any device.
        loader: yields batches with `images`, `targets` (B), `weights` (B, 0 = not to count) and `index` (B); its
            `dataset.name(index)` names an image's file.
        classes: the K names, in the order of the logits.
        limit: how many samples to keep: up to half of them the wrong answers the model was surest of, the others drawn
            from the right ones, always the same ones; where one kind is short, the other fills its place.

    Returns:
        The exact confusion matrix and the samples, wrong ones first.

    Raises:
        UsageError: the model or the labels do not have the K classes.
    """
    count = len(classes)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    picker = Picker(limit)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in watched(loader):
            probabilities = model(batch.images.to(device)).float().softmax(dim=-1).cpu()  # (B, K)
            targets, counts = batch.targets.cpu(), batch.weights.cpu() > 0  # (B), (B)
            check_classes(probabilities, targets[counts], count)
            confidences, predicted = probabilities.max(dim=-1)  # (B), (B)
            cells = targets[counts] * count + predicted[counts]
            confusion += cells.bincount(minlength=count * count).view(count, count)
            for row in counts.nonzero().flatten().tolist():
                name = str(loader.dataset.name(int(batch.index[row])))
                answer = int(targets[row]), int(predicted[row]), float(confidences[row])
                picker.offer(Sample(batch.images[row], name, *answer))
    return Predictions(list(classes), confusion, picker.chosen())


class Picker:
    """Chooses samples from a stream without keeping it: the surest wrong ones, and an even draw of the right ones."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # a heap whose first entry is the least sure; the count breaks ties before samples would be compared
        self.wrong: list[tuple[float, int, Sample]] = []
        self.right: list[Sample] = []
        self.seen = 0
        self.right_seen = 0
        self.random = random.Random(0)

    def offer(self, sample: Sample) -> None:
        """Takes a sample in, or lets it go."""
        self.seen += 1
        if sample.target != sample.predicted:
            if len(self.wrong) < self.limit:
                heapq.heappush(self.wrong, (sample.confidence, -self.seen, owned(sample)))
            elif self.wrong and sample.confidence > self.wrong[0][0]:
                heapq.heapreplace(self.wrong, (sample.confidence, -self.seen, owned(sample)))
            return
        # reservoir sampling: every right answer has the same chance
        self.right_seen += 1
        if len(self.right) < self.limit:
            self.right.append(owned(sample))
        elif (place := self.random.randrange(self.right_seen)) < self.limit:
            self.right[place] = owned(sample)

    def chosen(self) -> list[Sample]:
        """Wrong ones, surest first, then right ones; half and half where there are enough of both."""
        wrong = [sample for _, _, sample in sorted(self.wrong, key=lambda entry: entry[:2], reverse=True)]
        wrong = wrong[: max(self.limit // 2, self.limit - len(self.right))]
        return wrong + self.right[: self.limit - len(wrong)]


def owned(sample: Sample) -> Sample:
    """The sample with an image of its own, so that it does not keep its whole batch in memory."""
    return replace(sample, image=sample.image.cpu().clone())


def check_classes(probabilities: Tensor, targets: Tensor, count: int) -> None:
    """Refuses a model or labels that do not fit the class names."""
    if probabilities.shape[-1] != count:
        raise UsageError(f"the model has {probabilities.shape[-1]} classes, but {count} class names were given")
    if len(targets) and int(targets.max()) >= count:
        raise UsageError(
            f"label {int(targets.max())} in the data is too large for {count} classes; give the data of the training"
        )


def watched(loader: Iterable[Any]) -> Iterable[Any]:
    """The batches, with a progress bar on a terminal."""
    from rich.progress import track

    from acmix.train.terminal import new_console

    console = new_console(stderr=True)
    return track(loader, "predictions", console=console, transient=True, disable=not sys.stderr.isatty())
