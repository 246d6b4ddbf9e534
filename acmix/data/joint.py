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
    """A picture as uint8 (3, h, w), a grey one (1, h, w)."""
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


class PhotometricDistortion(v2.Transform):
    """Random brightness, contrast, saturation and hue, each with probability 1/2 (SSD, arXiv:1512.02325, section 2.2).

    With x of 0 to 1 a channel of a pixel, v the largest channel of that pixel and everything cut to 0 to 1:

        brightness   x + b               b of -32/255 to 32/255
        contrast     c x                 c of 1/2 to 3/2, before saturation and hue, or after
        saturation   v - s (v - x)       s of 1/2 to 3/2, at most what makes the smallest channel 0
        hue          turned by h         h of -hue to hue

    This is the form of the published recipes for detection and segmentation. torchvision's RandomPhotometricDistort
    scales brightness, blends contrast and saturation with grey, and permutes channels.

    Args:
        hue: largest turn, as a share of the circle of colours.
    """

    def __init__(self, hue: float = 0.05) -> None:
        super().__init__()
        self.hue = hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn for one image; None where nothing happens."""

        def drawn(low: float, high: float) -> float | None:
            return between(low, high) if happens(0.5) else None

        return {
            "brightness": drawn(-32 / 255, 32 / 255),
            "contrast": drawn(0.5, 1.5),
            "saturation": drawn(0.5, 1.5),
            "hue": drawn(-self.hue, self.hue),
            "contrast_first": happens(0.5),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """An image of 8 bits (3, h, w) in other colours; labels as they are."""
        if isinstance(inpt, (tv_tensors.Mask, tv_tensors.BoundingBoxes)):
            return inpt
        image, contrast = to_float(inpt), params["contrast"]
        if params["brightness"] is not None:
            image = (image + params["brightness"]).clamp(0, 1)
        if contrast is not None and params["contrast_first"]:
            image = (image * contrast).clamp(0, 1)
        if params["saturation"] is not None:
            image = saturated(image, params["saturation"])
        if params["hue"] is not None:
            image = F.adjust_hue(image, params["hue"])
        if contrast is not None and not params["contrast_first"]:
            image = (image * contrast).clamp(0, 1)
        return tv_tensors.Image((255 * image).round().to(torch.uint8))


def saturated(image: torch.Tensor, factor: float) -> torch.Tensor:
    """An image (3, h, w), 0 to 1, with its saturation (largest - smallest) / largest times a factor, at most 1."""
    largest, smallest = image.amax(0), image.amin(0)  # (h, w)
    # the pixel's saturation is spread / largest, so this is where it becomes 1
    most = largest / (largest - smallest).clamp(min=1e-6)  # (h, w)
    return largest - most.clamp(max=factor) * (largest - image)
