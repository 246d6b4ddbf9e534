"""Names what images show with a classifier.

B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from acmix.data.pictures import Transform
from acmix.errors import UsageError
from acmix.tools.exports import Export
from acmix.tools.predict_input import is_prepared, read_or_why


@dataclass(frozen=True)
class Prediction:
    """One image's best classes.

    Args:
        image: the file; "image 3" for the fourth picture, where it was given in memory.
        classes: (name, probability), the likeliest first; empty where the file could not be read.
        error: why it could not, in one line, or None.
    """

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None


@dataclass(frozen=True)
class Classifier:
    """A model that is ready to predict.

    Args:
        model: images (B, in_chans, h, w) -> logits (B, K).
        transform: prepares a picture for it.
        classes: its K names; empty: their numbers.
        top: how many of them an image gets.
    """

    model: nn.Module
    transform: Transform
    classes: list[str]
    top: int = 5

    def prepared(self, picture: Any) -> Tensor | str:
        """A picture as the model reads it, (in_chans, h, w), or why there is none."""
        return read_or_why(
            picture, self.transform, lambda given: given if is_prepared(given) else self.transform.prepared(given)
        )

    def found(self, batch: Sequence[tuple[str, Tensor | str]]) -> list[Prediction]:
        """The predictions of a batch."""
        return classified(self, batch)


def classified(classifier: Classifier, batch: Sequence[tuple[str, Tensor | str]]) -> list[Prediction]:
    """The predictions of a batch; images of one size go through the model together."""
    found: dict[int, Prediction] = {}
    groups: dict[Any, list[int]] = {}
    for place, (name, image) in enumerate(batch):
        if isinstance(image, str):
            found[place] = Prediction(name, [], image)
        else:
            groups.setdefault(image.shape, []).append(place)
    for places in groups.values():
        images = torch.stack([batch[place][1].detach().cpu() for place in places])  # type: ignore[union-attr]
        for place, row in zip(places, probabilities(classifier, images), strict=True):
            found[place] = best_of(batch[place][0], row, classifier.classes, classifier.top)
    return [found[place] for place in range(len(batch))]


def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """(B, in_chans, h, w) -> (B, K), in float32 on the CPU."""
    tensors = chain(classifier.model.parameters(), classifier.model.buffers())
    like = next((each for each in tensors if each.is_floating_point()), torch.empty(0))
    # the file of a program says what it takes, whatever its weights are
    says = isinstance(classifier.model, Export) and classifier.model.takes is not None
    with torch.inference_mode():
        logits = classifier.model(images.to(like.device, torch.float32 if says else like.dtype))
    count = len(classifier.classes)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or (count and logits.shape[1] != count):
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"the model gives {given} for {len(images)} images; expected logits (B, {count or 'classes'})")
    return logits.float().softmax(1).cpu()


def best_of(name: str, row: Tensor, classes: Sequence[str], top: int) -> Prediction:
    """The likeliest classes of one image, from the probabilities (K,) of all."""
    if not torch.isfinite(row).all():
        return Prediction(name, [], f"the model gives no finite numbers for {name}; its weights may be damaged")
    best = row.topk(min(top, len(row)))
    names = [str(classes[place] if classes else place) for place in best.indices.tolist()]
    return Prediction(name, list(zip(names, best.values.tolist(), strict=True)))
