"""What a batch means: its loss, and an exact measure of a whole data set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from acmix.data import Batch
from acmix.errors import UsageError
from acmix.tasks import Classification
from acmix.tasks.classify import evaluate
from tests.support.tiny import CLASSES, tiny_config

CPU = torch.device("cpu")


class Reader(nn.Module):
    """Takes the logits out of the pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, :]


def batch(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> Batch:
    rows = len(targets)
    return Batch(
        images=logits[:, None, None, :].expand(rows, 3, 2, -1).contiguous(),
        targets=targets,
        weights=torch.ones(rows) if weights is None else weights,
        failed=torch.full((rows,), -1),
        index=torch.arange(rows),
    )


def test_evaluation_counts_every_weighted_row_once() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(23, 8), torch.randint(8, (23,))
    weights = torch.ones(23)
    weights[[3, 20, 21, 22]] = 0
    # what fills a row that is not counted must not matter, not even where it is no number
    logits[20:] = float("nan")
    pieces = (slice(0, 10), slice(10, 20), slice(20, 23))
    result = evaluate(Reader(), [batch(logits[p], targets[p], weights[p]) for p in pieces], CPU)
    kept = weights > 0
    order = logits[kept].argsort(dim=1, descending=True)
    hits = order == targets[kept][:, None]
    assert result.images == 19
    assert result.metrics["top1"] == pytest.approx(100 * hits[:, 0].double().mean().item())
    assert result.metrics["top5"] == pytest.approx(100 * hits[:, :5].any(1).double().mean().item())
    assert result.loss == pytest.approx(F.cross_entropy(logits[kept], targets[kept]).item(), rel=1e-6)


def test_evaluation_with_fewer_than_five_classes_and_the_mode_put_back() -> None:
    model = Reader().train()
    result = evaluate(model, [batch(torch.eye(3), torch.tensor([0, 1, 0]))], CPU)
    assert (round(result.metrics["top1"], 3), result.metrics["top5"]) == (66.667, 100.0)
    assert model.training


def test_evaluation_of_nothing_readable_is_an_error() -> None:
    with pytest.raises(UsageError, match="none of the validation images could be read"):
        evaluate(Reader(), [batch(torch.eye(3), torch.tensor([0, 1, 2]), torch.zeros(3))], CPU)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_smoothed_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, CLASSES), torch.randint(CLASSES, (6,))
    task = Classification(
        tiny_config("", "augment.mixup=0", "augment.cutmix=0", f"augment.label_smoothing={smoothing}")
    )
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert task.loss(Reader(), batch(logits, targets))["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixup_mixes_images_and_targets_alike() -> None:
    task = Classification(tiny_config("", "augment.mixup=1.0", "augment.cutmix=0", "augment.label_smoothing=0"))
    seen: list[torch.Tensor] = []

    class Log(Reader):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(super().forward(images))
            return seen[-1].clamp_min(1e-30).log()

    for seed in range(5):
        np.random.seed(seed)
        loss = task.loss(Log(), batch(torch.eye(4)[[0, 1]], torch.tensor([0, 1])))["loss"]
        # the pair is (λ, 1-λ) and (1-λ, λ) in images and in targets: the loss is the entropy of λ
        share, rest = seen[-1][0, :2].tolist()
        assert seen[-1][1, :2].tolist() == pytest.approx([rest, share])
        assert share + rest == pytest.approx(1)
        assert loss.item() == pytest.approx(-share * math.log(share) - rest * math.log(rest), rel=1e-4)
    assert len({round(each[0, 0].item(), 3) for each in seen}) == 5
