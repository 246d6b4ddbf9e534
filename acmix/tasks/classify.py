"""Image classification: loss of a batch, exact accuracy of a data set on any number of processes.

Shapes: b batch · K classes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from acmix.config import Config
from acmix.data import Batch, TrainLoader, ValLoader, train_loader, val_loader
from acmix.errors import UsageError
from acmix.models.build import build_model, check_model
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.mixing import Mixing

# guesses of the second accuracy
TOP = 5


class Classification:
    """The task of naming what an image shows."""

    metric = "top1"
    metrics = ("top1", "top5")

    def __init__(self, config: Config) -> None:
        self.config = config
        augment = config.augment
        self.mixup: Mixing | None = None
        self.criterion: nn.Module
        if augment.mixup > 0 or augment.cutmix > 0 or augment.cutmix_minmax is not None:
            self.mixup = Mixing(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                cutmix_minmax=augment.cutmix_minmax,
                prob=augment.mixup_prob,
                switch_prob=augment.mixup_switch_prob,
                mode=augment.mixup_mode,
                label_smoothing=augment.label_smoothing,
                num_classes=config.model.num_classes,
            )
            self.criterion = SoftTargetCrossEntropy()
        elif augment.label_smoothing > 0:
            self.criterion = LabelSmoothingCrossEntropy(augment.label_smoothing)
        else:
            self.criterion = nn.CrossEntropyLoss()

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that lines and curves tell."""
        return self.metrics if tells_top5(self.config.model.num_classes) else self.metrics[:1]

    def build(self, *, download: bool = False) -> nn.Module:
        """The network; see `build_model`."""
        return build_model(self.config, download=download)

    def check(self) -> None:
        """Refuses settings of the network that cannot be meant, before data are looked for."""
        check_model(self.config.model)

    def blank(self, rows: int) -> tuple[Tensor, tuple[int, ...]]:
        """Images as the network reads them, and the shape of its answer."""
        model, size = self.config.model, self.config.data.img_size
        return torch.zeros(rows, model.in_chans, size, size), (rows, model.num_classes)

    def train_loader(self, **place: Any) -> TrainLoader:
        """The training split; arguments as for `acmix.data.train_loader`."""
        return train_loader(self.config, **place)

    def val_loader(self, **place: Any) -> ValLoader:
        """The validation split; arguments as for `acmix.data.val_loader`."""
        return val_loader(self.config, **place)

    def remarks(self, model: nn.Module, batches: TrainLoader) -> list[str]:
        """None."""
        return []

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of a batch, mixed and smoothed as configured: a scalar, as the only part."""
        images, targets = batch.images, batch.targets
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        return {"loss": self.criterion(model(images).float(), targets)}

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], device: torch.device, **how: Any) -> Evaluation:
        """Measures a model; see `evaluate`."""
        return evaluate(model, batches, device, **how)


def tells_top5(classes: int) -> bool:
    """Whether top-5 says anything: of five classes or fewer, every image is right."""
    return classes > TOP


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    memory_format: torch.memory_format = torch.contiguous_format,
    on_batch: Callable[[Batch], None] | None = None,
) -> Evaluation:
    """Measures a model exactly: padding and unreadable images have no weight, and sums are divided by the true count.

    Args:
        model: gives (b, K) logits; its mode is put back afterwards.
        batches: this process's share; every process must call with as many batches.
        device: where the model lies.
        autocast: makes the context the model runs in.
        memory_format: of the images.
        on_batch: told each batch, for progress and a list of unreadable files.

    Returns:
        The same for every process.

    Raises:
        UsageError: no image could be read.
    """
    was_training = model.training
    model.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # hits of the first guess, of five guesses, images
    losses: list[Tensor] = []
    for cpu_batch in batches:
        batch = cpu_batch.to(device, memory_format)
        with autocast():
            logits = model(batch.images)
        counted, lost = scores(logits.float(), batch.targets, batch.weights)
        counts += counted
        losses.append(lost)
        if on_batch is not None:
            on_batch(cpu_batch)
    model.train(was_training)
    # exact, and off the device: not every one has float64
    total = math.fsum(torch.cat(losses).tolist()) if losses else 0.0
    parts: list[Any] = [(*counts.tolist(), total)]
    if dist.is_available() and dist.is_initialized():
        parts *= dist.get_world_size()
        dist.all_gather_object(parts, parts[0])
    first, five, images, total = (math.fsum(part) for part in zip(*parts, strict=True))
    if images == 0:
        raise UsageError("none of the validation images could be read; check that they are image files")
    accuracies = {"top1": 100 * first / images, "top5": 100 * five / images}
    return Evaluation(accuracies, images=round(images), loss=total / images)


def scores(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Scores the rows of weight > 0 of a batch (b, K).

    Returns:
        Counts of hits of the first guess, hits of five guesses, and rows: (3,), int64; the cross-entropy of each row, 0
        for a row of weight 0: (b,).
    """
    counted = weights > 0  # (b,)
    guesses = logits.topk(min(TOP, logits.shape[1]), dim=1).indices  # (b, 5)
    hits = (guesses == targets[:, None]) & counted[:, None]  # (b, 5)
    # chosen, not multiplied: what a blank image gives need not be a number
    losses = F.cross_entropy(logits, targets, reduction="none").where(counted, 0.0)  # (b,)
    return torch.stack([hits[:, 0].sum(), hits.sum(), counted.sum()]), losses
