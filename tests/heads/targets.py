"""Pictures with bright squares, and what a detector learns of them."""

from __future__ import annotations

import torch
from torch import Tensor


def picture(height: int, width: int, objects: int, *, seed: int = 0, classes: int = 2) -> tuple[Tensor, dict]:
    """A picture (3, height, width) with so many rectangles, each bright in the channel of its class; and its target."""
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=random) * 0.3
    boxes = torch.zeros(objects, 4)
    labels = torch.randint(1, classes + 1, (objects,), generator=random)
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    for i in range(objects):
        x0, y0 = (int(torch.randint(0, max(1, side // 2), (1,), generator=random)) for side in (width, height))
        x1, y1 = (start + max(1, side // 3) for start, side in ((x0, width), (y0, height)))
        boxes[i] = torch.tensor([x0, y0, x1, y1])
        masks[i, y0:y1, x0:x1] = 1
        image[labels[i] - 1, y0:y1, x0:x1] = 1
    return image, dict(boxes=boxes, labels=labels, masks=masks)


def pictures(*sizes: tuple[int, int], objects: int = 2, seed: int = 0) -> tuple[list[Tensor], list[dict]]:
    """A picture of each size, and their targets."""
    found = [picture(*size, objects, seed=seed + i) for i, size in enumerate(sizes)]
    return [image for image, _ in found], [target for _, target in found]
