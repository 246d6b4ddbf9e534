"""Finds objects in images with a detector, one image at a time, so that no other image changes the result."""

# n objects · h, w height and width of the image as it was given

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acmix.data.pictures import Transform
from acmix.errors import UsageError
from acmix.tools.finite import DAMAGED, watched
from acmix.tools.found import Detected, FoundObject
from acmix.tools.predict_input import is_prepared, read_or_why
from acmix.tools.run_length import mask_to_text

# a pixel belongs to an object where the mask is above
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Detector:
    """A detector that is ready to predict.

    Args:
        model: a list of images float (3, h, w) from 0 to 1 -> a list of {"boxes", "labels", "scores", "masks"}.
        transform: prepares a picture for it.
        classes: its names; empty: their numbers, from 1 on.
        score: objects of which the model is less sure are left out.
    """

    model: nn.Module
    transform: Transform
    classes: list[str]
    score: float

    def prepared(self, picture: Any) -> Tensor | str:
        """A picture as the model reads it, float (3, h, w), or why there is none."""
        return read_or_why(
            picture, self.transform, lambda given: given if is_prepared(given) else self.transform.prepared(given)
        )

    def found(self, batch: Sequence[tuple[str, Tensor | str]]) -> list[Detected]:
        """What is in the images of a batch."""
        return [
            Detected(name, error=image) if isinstance(image, str) else self.found_in(name, image)
            for name, image in batch
        ]

    def found_in(self, name: str, image: Tensor) -> Detected:
        """What is in one image (3, h, w)."""
        size = (image.shape[-2], image.shape[-1])
        like = next((each for each in self.model.parameters() if each.is_floating_point()), image)
        try:
            with torch.inference_mode(), watched(self.model) as watch:
                answer = self.model([image.detach().to(like.device, like.dtype)])
        except UsageError as error:
            # of this image's size
            return Detected(name, error=f"{name}: {error}")
        if watch.is_broken:
            return Detected(name, error=f"the model gives no finite numbers for {name}; {DAMAGED}")
        return Detected(name, self.objects(checked(answer), size), size)

    def objects(self, answer: Mapping[str, Tensor], size: tuple[int, int]) -> list[FoundObject]:
        """The objects of one image, the surest first."""
        scores, labels, boxes = answer["scores"].float(), answer["labels"], answer["boxes"].float()
        masks = answer.get("masks")  # (n, 1, h, w)
        kept = (scores >= self.score) & scores.isfinite() & boxes.isfinite().all(1) & (labels > 0)  # (n,)
        chosen = kept.nonzero()[:, 0]
        chosen = chosen[scores[chosen].argsort(descending=True, stable=True)]
        found = []
        for place in chosen.tolist():
            label = int(labels[place])
            outline = None
            if masks is not None:
                outline = mask_to_text((masks[place, 0] > MASK_THRESHOLD).cpu().numpy())
            left, top, right, bottom = boxes[place].tolist()
            box = (left, top, right, bottom)
            found.append(FoundObject(self.name_of(label), label, float(scores[place]), box, size, outline))
        return found

    def name_of(self, label: int) -> str:
        """The name of a label, from 1 on."""
        return self.classes[label - 1] if label <= len(self.classes) else str(label)


def checked(answer: Any) -> Mapping[str, Tensor]:
    """What a detector says of one image."""
    wanted = ("boxes", "labels", "scores")
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict) and set(wanted) <= set(answer[0]):
        return answer[0]
    raise UsageError(
        f"the model gives a {type(answer).__name__} for an image; expected torchvision's list of dictionaries with "
        f"{', '.join(wanted)}"
    )
