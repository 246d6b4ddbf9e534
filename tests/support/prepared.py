"""Images as a model sees them, from what a training transform gives."""

from __future__ import annotations

import torch

from acmix.config import Data
from acmix.data.batch import collate
from acmix.data.dataset import Row
from acmix.data.image import normalisation
from acmix.data.training import Prepared


def finished(prepared: Prepared, data: Data) -> torch.Tensor:
    """float32 (C, H, W), normalised and erased."""
    row = Row(prepared.image, 0, 1.0, -1, 0, prepared.erased)
    return collate([row], normalisation(data, len(prepared.image))).to("cpu").images[0]
