"""From boxes back to pictures: masks are pasted as torchvision does it."""

from __future__ import annotations

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from acmix.heads.transform import pasted_masks


def test_masks_are_pasted_as_torchvision_does_it_to_the_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(40, 1, 28, 28, generator=draw)
    corners = torch.rand(40, 2, generator=draw) * torch.tensor([90.0, 60.0])
    boxes = torch.cat([corners, corners + 40 * torch.rand(40, 2, generator=draw)], 1)
    boxes[:4] = torch.tensor([[0, 0, 90, 60], [-5, -9, 99, 70], [30, 20, 30.2, 20.1], [89, 59, 90, 60]])
    for size in ((60, 90), (1, 90)):
        boxes = torch.stack([boxes[:, 0::2].clamp(max=size[1]), boxes[:, 1::2].clamp(max=size[0])], 2).flatten(1)
        assert torch.equal(pasted_masks(masks, boxes, size), paste_masks_in_image(masks, boxes, size))


def test_no_mask_gives_no_mask() -> None:
    assert pasted_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (5, 7)).shape == (0, 1, 5, 7)


def test_masks_of_a_model_that_keeps_gradients_are_pasted_too() -> None:
    masks = torch.rand(2, 1, 4, 4, requires_grad=True)
    pasted_masks(masks, torch.tensor([[0.0, 0.0, 5.0, 6.0], [2.0, 1.0, 9.0, 9.0]]), (8, 8)).sum().backward()
    assert masks.grad is not None
    assert bool((masks.grad > 0).any(3).any(2).all())
