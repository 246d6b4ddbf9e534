"""Names what images show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acmix.data import evaluation_transform
from acmix.data.image import reader
from acmix.errors import UsageError
from acmix.train.checkpoint import restore_model
from acmix.train.device import this_device


@dataclass(frozen=True)
class Prediction:
    """One image's best classes.

    Args:
        image: the file.
        classes: (name, probability), the likeliest first; empty where the file could not be read.
        error: why it could not, in one line, or None.
    """

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None


def predict(checkpoint: Path, images: Sequence[str], top: int = 5) -> Iterator[Prediction]:
    """Runs a checkpoint on image files, one by one; an unreadable file is told of and the rest goes on.

    Args:
        checkpoint: best.pt, last.pt, or what `acmix convert` wrote.
        images: files.
        top: how many classes to give for each, at most as many as there are.

    Raises:
        UsageError: the checkpoint cannot be used, or `top` is less than 1.
    """
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    device = this_device()
    restored = restore_model(checkpoint, device)
    transform = evaluation_transform(restored.config.data, restored.config.model.in_chans)
    read = reader(restored.config.data)
    for image in images:
        try:
            pixels: Any = transform(read(image))  # (in_chans, h, w)
        except UsageError as error:
            yield Prediction(image, [], str(error))
            continue
        with torch.no_grad():
            probabilities = restored.model(pixels[None].to(device))[0].softmax(0)  # (K,)
        best = probabilities.topk(min(top, len(probabilities)))
        names = [restored.classes[i] for i in best.indices.tolist()]
        yield Prediction(image, list(zip(names, best.values.tolist(), strict=True)))
