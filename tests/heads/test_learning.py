"""Every head learns: on a few pictures of random shapes its loss falls.

A head sees a backbone's maps and not what made them, so without convolution paths one head of a kind is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import acmix
from acmix.heads.segmenters import HEADS
from tests.heads.targets import pictures
from tests.heads.tiny import RESNET, SWIN, TINY, detector

CLASSES = 3
SIDE = 64
STEPS = 40


def falls(model: nn.Module, losses_of: Callable[[], dict[str, Tensor]], *, lr: float, share: float) -> None:
    """The losses together end below a share of what they began with."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    watched = []
    for _ in range(STEPS):
        losses = losses_of()
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        # boxes of regions have a loss only once regions are found: it rises from 0
        watched.append(sum(each.item() for name, each in losses.items() if not name.endswith("box_reg")))
    first, last = sum(watched[:5]), sum(watched[-5:])
    assert last < share * first, f"{first / 5:.3f} -> {last / 5:.3f}"


def labelled(count: int = 4) -> tuple[Tensor, Tensor]:
    """Rectangles and discs at random places on noise: images (count, 3, h, w) and labels (count, h, w)."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    images, labels = drawn(count, 3, SIDE, SIDE) - 0.5, torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for image, label in zip(images, labels, strict=True):
        for kind in (1, 2):
            (y, x), size = SIDE * (0.2 + 0.6 * drawn(2)), SIDE * (0.1 + 0.15 * drawn(1))
            down, right = (rows - y).abs(), (columns - x).abs()
            inside = down.square() + right.square() < size**2 if kind == 1 else torch.maximum(down, right) < size
            label[inside] = kind
            image[:, inside] = image[:, inside] / 4 + 2 * (drawn(3, 1) - 0.5) + (1 if kind == 1 else -1)
    return images, labels


@pytest.mark.slow
@pytest.mark.parametrize(("head", "conv_path"), [*((head, True) for head in HEADS), ("semantic_fpn", False)])
@pytest.mark.parametrize("name", TINY)
def test_a_segmenter_learns_a_few_pictures(name, head, conv_path):
    torch.manual_seed(0)
    width: dict[str, Any] = {"semantic_fpn": dict(pyramid_channels=32), "upernet": dict(auxiliary_channels=16)}[head]
    model = acmix.create_segmenter(
        head, name, num_classes=CLASSES, conv_path=conv_path, backbone_args=TINY[name], channels=32, **width
    )
    images, labels = labelled()
    weights = {"out": 1.0, "aux": model.auxiliary_weight}

    def losses_of() -> dict[str, Tensor]:
        out = model(images)
        parts = out if isinstance(out, dict) else {"out": out}
        return {key: weights[key] * F.cross_entropy(each, labels) for key, each in parts.items()}

    falls(model, losses_of, lr=3e-3, share=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "name", "conv_path"),
    [
        # over ACmix-ResNet, test_detectors.py has the heads find and name squares, which says more
        *((head, SWIN, True) for head in ("retinanet", "fcos", "mask_rcnn", "cascade_mask_rcnn")),
        ("mask_rcnn", SWIN, False),
        ("fcos", RESNET, False),
    ],
)
def test_a_detector_learns_a_few_pictures(head, name, conv_path):
    torch.manual_seed(0)
    model = detector(head, name, conv_path=conv_path)
    images, targets = pictures((64, 64), (48, 72), (70, 40))
    falls(model, lambda: model(images, targets), lr=1e-3, share=0.85)
