"""Images are normalised to the same bits whatever the layout, and lie as they were asked for."""

from __future__ import annotations

import pytest
import torch

from acmix.data.batch import normalised


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 1, 7), (2, 3, 31, 29), (4, 1, 16, 16)])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_bytes_are_normalised_step_by_step(
    side_by_side: bool, shape: tuple[int, int, int, int], memory_format: torch.memory_format
) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=draw).byte()
    if side_by_side:
        images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    mean, std = torch.rand(2, shape[1], 1, 1, generator=draw) + 0.1
    found = normalised(images, mean, std, memory_format)
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, images.float().div(255).sub(mean).div(std))
