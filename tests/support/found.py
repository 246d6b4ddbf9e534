"""Networks that find what a test says, and the `Info` that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acmix.config import Config
from acmix.tools.load import Info, with_info
from acmix.tools.preparation import preparation

NAMES = ["cat", "dog", "owl"]


class StillDetector(nn.Module):
    """Finds in each image a dog in the middle, and less surely a cat at the left and an owl on nothing.

    Args:
        has_masks: whether objects have masks: the boxes' upper halves.
    """

    head_name = "mask_rcnn"

    def __init__(self, has_masks: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.has_masks = has_masks
        self.seen: list[Tensor] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.found_in(image) for image in images]

    def found_in(self, image: Tensor) -> dict[str, Tensor]:
        assert not self.training
        assert image.dim() == 3
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        self.seen.append(image)
        height, width = image.shape[1:]
        boxes = torch.tensor([[0, 0, 0.5, 1], [0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]])
        boxes = boxes * torch.tensor([width, height, width, height])
        found = {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "scores": torch.tensor([0.6, 0.9, 0.1])}
        if self.has_masks:
            masks = torch.zeros(3, 1, height, width)
            masks[0, 0, : height // 2, : width // 2] = 0.7
            masks[1, 0, height // 4 : height // 2, width // 4 : 3 * width // 4] = 0.9
            found["masks"] = masks
        return found


class Thirds(nn.Module):
    """Takes the left third of an image for the first class, the middle for the second and the right for the third."""

    head_name = "upernet"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(images)
        place = torch.arange(images.shape[-1]) * 3 // images.shape[-1]  # (w,)
        logits = (place == torch.arange(3)[:, None]).float()[None, :, None]  # (1, 3, 1, w)
        return 9 * logits.expand(images.shape[0], 3, *images.shape[2:])


def with_names(model: nn.Module, task: str, **more: Any) -> tuple[nn.Module, Info]:
    """The network as `acmix.load` gives one."""
    config = Config.model_validate({"task": {"name": task, "num_classes": len(NAMES), **more}})
    info = Info(
        source="it", path=Path("it"), kind="checkpoint", model=config.model.name, classes=NAMES, are_named=True,
        **preparation(config), task=task, head=config.task.head, config=config,
    )  # fmt: skip
    return with_info(model, info)
