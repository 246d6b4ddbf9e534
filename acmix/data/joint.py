"""What detection and segmentation share on the way from a picture and its labels to a training example.

Everything is drawn from torch's generator, which a dataset seeds for each image (`acmix.data.dataset.seeded`). Labels
are torchvision's tensors that know what they are (`tv_tensors`), so one call moves an image and its labels alike.
"""

# h, w height and width of one image

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

Value = TypeVar("Value")
# what moves with the pixels; other tensors, such as classes, do not
SPATIAL = (tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes)


def happens(probability: float) -> bool:
    """Whether something of a probability happens this time."""
    return bool(torch.rand(()) < probability)


def between(low: float, high: float) -> float:
    """A number drawn from a range, each as likely."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64))


def whole_number(low: int, high: int) -> int:
    """A whole number drawn from low to high, both of them included."""
    return int(torch.randint(low, high + 1, ()))


def one_of(values: Sequence[Value]) -> Value:
    """One of several values, each as likely."""
    return values[whole_number(0, len(values) - 1)]


def as_image(picture: Image.Image) -> tv_tensors.Image:
    """An RGB picture as uint8 (3, h, w)."""
    return tv_tensors.Image(F.pil_to_tensor(picture))


def to_float(image: torch.Tensor) -> torch.Tensor:
    """An image of 8 bits (3, h, w) as plain float32 (3, h, w), 0 to 1."""
    return F.to_dtype(image, torch.float32, scale=True).as_subclass(torch.Tensor)


def normalise(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(image - mean) / std of each channel, for float images (3, h, w)."""
    return F.normalize(image, list(mean), list(std))


def moved(move: Callable[[Any], Any], image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Applies one of torchvision's functions to an image and to what lies on it.

    Args:
        move: such as `functools.partial(functional.crop, top=…, left=…, height=…, width=…)`.
        image: (3, h, w).
        target: labels by name; those that are no `tv_tensors` stay as they are.
    """
    labels = {key: move(value) if isinstance(value, SPATIAL) else value for key, value in target.items()}
    return move(image), labels


def scaled_size(height: int, width: int, shorter: float, longest: float) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `shorter`, or less so that none is above `longest`.

    The ratio of the sides is kept to the nearest pixel, and each has one pixel at least.
    """
    factor = min(shorter / min(height, width), longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Random brightness, contrast, saturation and hue, each with probability 1/2 (SSD, arXiv:1512.02325, section 2.2).

    Channels keep their order, as in the published recipes for detection and segmentation.

    Args:
        hue: largest turn, as a share of the circle of colours.
    """

    def __init__(self, hue: float = 0.05) -> None:
        super().__init__(hue=(-hue, hue))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn for one image."""
        return super().make_params(flat_inputs) | {"channel_permutation": None}
