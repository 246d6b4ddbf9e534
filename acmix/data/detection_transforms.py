"""What happens to an image with boxes and masks: the recipe of DETR and Swin in training, nothing in evaluation.

Training: flip; one of `min_size` for the shorter side, no side above `max_size`. With `crop`, half of the images are
first resized to a shorter side of 400, 500 or 600 and cropped to a random window (DETR, arXiv:2005.12872, section 4).
Evaluation leaves an image as it is: the model resizes it.
"""

# n objects of an image, h, w its height and width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from acmix.config import Augment, Task
from acmix.data.joint import PhotometricDistortion, happens, moved, one_of, scaled_size, to_float, whole_number

# shorter sides before a crop
BEFORE_CROP = (400, 500, 600)
# pixels: a box that is narrower or lower, such as what a crop leaves of one, is no object
LEAST_SIDE = 0.1


@dataclass(frozen=True)
class TrainingTransform:
    """The augmentation of detection; call it with an image and its target.

    Args:
        hflip: probability of a flip left to right.
        min_size: shorter sides, of which one is drawn.
        max_size: largest side.
        crop: smallest and largest side of a window; None: no crop.
        photometric: whether colours change.
    """

    hflip: float
    min_size: Sequence[int]
    max_size: int
    crop: tuple[int, int] | None = None
    photometric: bool = False

    def __call__(self, image: Any, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Changes an image as torch's generator says.

        Args:
            image: `tv_tensors.Image`, uint8 (3, h, w).
            target: boxes (n, 4) and masks (n, h, w) as `tv_tensors`; other tensors are of n rows.

        Returns:
            The image as float32 (3, h, w), 0 to 1, and the target without what is no longer on it.
        """
        if happens(self.hflip):
            image, target = moved(F.horizontal_flip, image, target)
        if self.crop is not None and happens(0.5):
            image, target = resized(image, target, one_of(BEFORE_CROP), self.max_size)
            image, target = cropped(image, target, self.crop)
        image, target = resized(image, target, one_of(self.min_size), self.max_size)
        if self.photometric:
            image = PhotometricDistortion()(image)
        target = on_image(target)
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]  # (n, 2)
        return to_float(image), plain(target | {"area": sides.prod(dim=1)})


def training_transform(task: Task, augment: Augment) -> TrainingTransform:
    """The augmentation that a configuration asks for: `augment.hflip` and the sizes in `task`."""
    assert task.min_size
    assert task.max_size
    return TrainingTransform(
        hflip=augment.hflip,
        min_size=task.min_size,
        max_size=task.max_size,
        crop=(task.crop[0], task.crop[1]) if task.crop else None,
        photometric=bool(task.photometric),
    )


def resized(image: Any, target: dict[str, Any], shorter: int, longest: int) -> tuple[Any, dict[str, Any]]:
    """An image whose shorter side is `shorter`, or less, so that none is above `longest`."""
    size = scaled_size(image.shape[-2], image.shape[-1], shorter, longest)
    return moved(partial(at_size, size=list(size)), image, target)


def at_size(value: Any, size: list[int]) -> Any:
    """An image, boxes or masks on a canvas of height and width `size`; masks stay 0 and 1."""
    if isinstance(value, tv_tensors.Mask):
        # of masks, torchvision takes the pixel left of the nearest, up to half a pixel beside the image's
        return tv_tensors.Mask(F.resize(value.as_subclass(torch.Tensor), size, InterpolationMode.NEAREST_EXACT))
    return F.resize(value, size, InterpolationMode.BILINEAR, antialias=True)


def cropped(image: Any, target: dict[str, Any], sides: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """A random window with sides drawn from a range, as far as the image has them."""
    height, width = image.shape[-2:]
    high = whole_number(min(sides[0], height), min(sides[1], height))
    wide = whole_number(min(sides[0], width), min(sides[1], width))
    top, left = whole_number(0, height - high), whole_number(0, width - wide)
    image, target = moved(partial(F.crop, top=top, left=left, height=high, width=wide), image, target)
    return image, on_image(target)


def on_image(target: dict[str, Any]) -> dict[str, Any]:
    """Boxes clipped to their image, and objects without one on it left out."""
    boxes = F.clamp_bounding_boxes(target["boxes"])
    kept = ((boxes[:, 2:] - boxes[:, :2]) > LEAST_SIDE).all(dim=1)  # (n,)
    target = target | {"boxes": boxes}
    # choosing rows copies masks, of which nearly always all are kept
    return target if bool(kept.all()) else {key: rows(value, kept) for key, value in target.items()}


def rows(value: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The chosen rows of one part of a target, which still knows what it is; a number of the image stays."""
    if value.ndim == 0:
        return value
    chosen: Any = value[kept]
    if not isinstance(value, tv_tensors.TVTensor):
        return chosen
    return tv_tensors.wrap(chosen, like=value)  # pyright: ignore[reportCallIssue]


def plain(target: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A target of plain tensors, which torch's functions need not ask what they are."""
    return {key: value.as_subclass(torch.Tensor) for key, value in target.items()}
