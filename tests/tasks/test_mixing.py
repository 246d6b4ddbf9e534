"""Mixup and cutmix draw timm's numbers and give timm's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup

from acmix.tasks.mixing import Mixing

KINDS: tuple[dict[str, Any], ...] = (
    {"mixup_alpha": 0.8},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.7, "correct_lam": False},
)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (6, 1, 7, 5), (8, 3, 32, 31)])
def test_images_and_targets_are_timm_s_to_the_bit(
    shape: tuple[int, int, int, int], kind: dict[str, Any], mode: str, memory_format: torch.memory_format
) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=draw).contiguous(memory_format=memory_format)
    labels = torch.randint(5, shape[:1], generator=draw)
    for seed in range(12):
        found = []
        for make in (Mixup, Mixing):
            np.random.seed(seed)
            found.append((*make(**kind, mode=mode, num_classes=5)(images.clone(), labels), np.random.random()))
        theirs, ours = found
        assert torch.equal(theirs[0], ours[0])
        assert torch.equal(theirs[1], ours[1])
        assert theirs[2] == ours[2]
        assert ours[0].is_contiguous(memory_format=memory_format)
