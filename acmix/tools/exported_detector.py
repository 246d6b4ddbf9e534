"""An exported detector, used as any other: pictures of any sizes in, boxes in their own pixels out.

Shapes: C channels · h, w picture · B batch · H, W batch filled up · D detections
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.heads.transform import Transform
from acmix.tools.description import Description
from acmix.tools.exports import CANNOT_RUN, Export, cannot_run

NAMES = ("boxes", "scores", "labels", "masks")


class ExportedDetector(nn.Module):
    """A detector in a file, with torchvision's calling convention.

    Args:
        export: the file.
        description: what it says of itself.

    Raises:
        UsageError: it does not end with non-maximum suppression, or is no detector's.
    """

    def __init__(self, export: Export, description: Description) -> None:
        super().__init__()
        if not description.suppression:
            raise UsageError(
                f"{export.path} was exported without non-maximum suppression, which is then the runtime's task; "
                "export it with it to use it here"
            )
        if description.inputs != ("images", "sizes") or description.outputs not in (NAMES[:3], NAMES):
            raise UsageError(f"{export.path} gives {', '.join(description.outputs)[:80]}; expected {', '.join(NAMES)}")
        prepared = description.preprocessing
        sizes = prepared.img_size if isinstance(prepared.img_size, int) else min(prepared.img_size)
        self.export, self.head_name = export, description.head
        self.num_classes, self.has_masks = len(description.classes), "masks" in description.outputs
        self.names = description.outputs
        self.transform = Transform(sizes, prepared.max_size or sizes, mean=[*prepared.mean], std=[*prepared.std])

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Pictures (C, h, w) in 0 … 1 -> {boxes (n, 4), scores (n,), labels (n,)[, masks (n, 1, h, w)]} of each."""
        if not len(images):
            raise UsageError(f"{self.export.path} got no images; give one at least")
        given = [(each.shape[-2], each.shape[-1]) for each in images]
        batch, _ = self.transform([*images])
        sizes = torch.tensor(batch.image_sizes, dtype=torch.float32, device=batch.tensors.device)
        try:
            found = self.export.run(batch.tensors, sizes)
        except CANNOT_RUN as error:
            cannot_run(self.export.path, batch.tensors, error)
        results = self.checked(found, len(images))
        return self.transform.postprocess(results, batch.image_sizes, given)

    def fits(self, found: tuple[Tensor, ...], count: int) -> bool:
        """Whether the outputs have the shapes and labels of detections of so many images."""
        boxes, scores, labels, *masks = found
        objects = (count, labels.shape[1]) if labels.dim() == 2 else (count,)
        shapes = boxes.shape == (*objects, 4) and scores.shape == labels.shape == objects
        right = len(objects) == 2 and shapes and all(each.dim() == 4 and each.shape[:2] == objects for each in masks)
        if not right or labels.is_floating_point():
            return False
        return not labels.numel() or bool(labels.min() >= 0 and labels.max() <= self.num_classes)

    def checked(self, found: Any, count: int) -> list[dict[str, Tensor]]:
        """What there really is of each image."""
        right = isinstance(found, tuple) and len(found) == len(self.names)
        if not right or not self.fits(found, count):
            raise UsageError(f"{self.export.path} gives something else than it says; export it again")
        results = []
        for image in zip(*found, strict=True):
            result = dict(zip(self.names, image, strict=True))
            real = result["labels"] > 0
            result = {name: value[real] for name, value in result.items()}
            if self.has_masks:
                result["masks"] = result["masks"][:, None]
            results.append(result)
        return results
