"""Names every pixel of images with a segmenter, one image at a time, as evaluation does."""

# K classes · h, w height and width of the image as it was given

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acmix.data.pictures import Transform
from acmix.errors import UsageError
from acmix.tools.found import Segmented, regions_of
from acmix.tools.predict_input import is_prepared, read_or_why


@dataclass(frozen=True)
class Segmenter:
    """A segmenter that is ready to predict.

    Args:
        model: normalised images (1, 3, H, W) -> logits (1, K, H, W).
        transform: prepares a picture for it.
        classes: its K names; empty: their numbers, from 0 on.
        windows: the sides of windows and the steps between them, where the model is to see one after the other.
    """

    model: nn.Module
    transform: Transform
    classes: list[str]
    windows: tuple[tuple[int, int], int | None] | None = None

    def prepared(self, picture: Any) -> tuple[Tensor, tuple[int, int]] | str:
        """A picture as the model reads it, float (3, H, W), and its size (h, w); or why there is none."""
        return read_or_why(picture, self.transform, self.with_size)

    def with_size(self, picture: Any) -> tuple[Tensor, tuple[int, int]]:
        """A picture as the model reads it, and the size it has itself."""
        if is_prepared(picture):
            return picture, (picture.shape[-2], picture.shape[-1])
        return self.transform.with_size(picture)

    def found(self, batch: Sequence[tuple[str, Any]]) -> list[Segmented]:
        """The label maps of a batch, of images (3, H, W) with the sizes (h, w) that they had."""
        return [
            Segmented(name, error=image) if isinstance(image, str) else self.found_in(name, *image)
            for name, image in batch
        ]

    def found_in(self, name: str, image: Tensor, size: tuple[int, int]) -> Segmented:
        """The label map of one image (3, H, W), of the size (h, w)."""
        from acmix.tasks.segment.inference import best_classes, logits_at_its_size

        like = next((each for each in self.model.parameters() if each.is_floating_point()), image)
        crop, stride = self.windows or (None, None)
        with torch.inference_mode():
            logits = logits_at_its_size(self.model, image.to(like.device, like.dtype), crop=crop, stride=stride)
            if not torch.isfinite(logits).all():
                why = f"the model gives no finite numbers for {name}; its weights may be damaged"
                return Segmented(name, error=why)
            labels = best_classes(logits, size)  # (h, w)
        count = len(self.classes)
        if count and logits.shape[0] != count:
            raise UsageError(f"the model gives {logits.shape[0]} classes; expected {count}")
        kind = np.uint8 if logits.shape[0] <= 256 else np.uint16
        found = labels.cpu().numpy().astype(kind)
        return Segmented(name, found, regions_of(found, self.classes))
