"""What happens to an image and its label map, by the recipes of Semantic FPN (PVT) and UPerNet (Swin) on ADE20K.

Training: resize by a random factor, random crop in which no class fills nearly all, flip, photometric distortion,
normalisation, padding to the crop. Evaluation: the image alone is resized; its label map keeps its size, and logits are
resized to that before classes are chosen.
"""

# h, w height and width of one image; H, W those of a crop; C channels, 3 or 1

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from acmix.config import Config
from acmix.data.image import normalisation
from acmix.data.joint import (
    PhotometricDistortion,
    as_image,
    between,
    happens,
    normalise,
    one_of,
    scaled_size,
    to_float,
    whole_number,
)
from acmix.data.label_maps import IGNORED

# crops drawn until one is varied enough; the last is taken as it is
DRAWS = 10
# of the circle of colours: the recipes' 18, of hues that OpenCV counts from 0 to 179
HUE = 0.1


@dataclass(frozen=True)
class TrainingTransform:
    """What training does to an image and its classes; everything is drawn from torch's generator.

    Args:
        sizes: pixels of the shorter side, of which one is drawn, before the random factor.
        longest: most pixels of the longer side, before the random factor.
        scale: smallest and largest factor.
        crop: H, W of a crop.
        class_share: largest share of one class in a crop, see `draw_crop`.
        hflip: probability of a flip left to right.
        distort: changes the colours of a uint8 image; None: nothing does.
        mean: of the normalisation, one value for each channel of the result: 3, or 1 for grey.
        std: likewise.
    """

    sizes: tuple[int, ...]
    longest: int
    scale: tuple[float, float]
    crop: tuple[int, int]
    class_share: float
    hflip: float
    distort: PhotometricDistortion | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Image.Image, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes a training example.

        Args:
            picture: RGB, (w, h).
            labels: its classes, uint8 (h, w), 255 = ignored.

        Returns:
            Normalised float32 (C, H, W) and classes uint8 (H, W), filled up at the right and at the bottom, where the
            resized image is smaller, with 0 (the mean colour) and 255.
        """
        factor, shorter = between(*self.scale), one_of(self.sizes)
        size = scaled_size(picture.height, picture.width, factor * shorter, factor * self.longest)
        image, targets = F.resize(as_image(picture), list(size), antialias=True), resize_labels(labels, size)
        place = draw_crop(targets, self.crop, self.class_share)
        image, targets = F.crop(image, *place), F.crop(targets, *place)
        if happens(self.hflip):
            image, targets = F.horizontal_flip(image), F.horizontal_flip(targets)
        if self.distort is not None:
            image = self.distort(image)
        image = normalise(in_channels(to_float(image), len(self.mean)), self.mean, self.std)
        # left, top, right, bottom
        space = [0, 0, self.crop[1] - image.shape[2], self.crop[0] - image.shape[1]]
        filled: Any = F.pad(targets, space, fill=IGNORED)  # pyright: ignore[reportArgumentType]  (a mask takes a number)
        return F.pad(image, space), filled.as_subclass(torch.Tensor)


@dataclass(frozen=True)
class EvaluationTransform:
    """What evaluation does to an image; its classes stay as they are, in their own size.

    Args:
        shorter: pixels of the shorter side.
        longest: most pixels of the longer side; the shorter one is then smaller.
        align: the resized sides are rounded up to multiples of it.
        mean: of the normalisation, one value for each channel of the result: 3, or 1 for grey.
        std: likewise.
    """

    shorter: int
    longest: int
    align: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def image(self, picture: Image.Image) -> torch.Tensor:
        """An RGB picture as normalised float32 (C, h, w)."""
        size = scaled_size(picture.height, picture.width, self.shorter, self.longest)
        size = [-(-side // self.align) * self.align for side in size]
        image = to_float(F.resize(as_image(picture), size, antialias=True))
        return normalise(in_channels(image, len(self.mean)), self.mean, self.std)

    def __call__(self, picture: Image.Image, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """An RGB picture (w0, h0) and its classes, uint8 (h0, w0), as (C, h, w) and (h0, w0)."""
        return self.image(picture), torch.from_numpy(labels)


def training_transform(config: Config) -> TrainingTransform:
    """What a configuration's training does: task.min_size, max_size, scale, crop, crop_class_share and photometric,
    augment.hflip, model.in_chans, data.mean and data.std.
    """
    task = config.task
    assert task.min_size
    assert task.max_size
    mean, std = normalisation(config.data, config.model.in_chans)
    return TrainingTransform(
        sizes=task.min_size,
        longest=task.max_size,
        scale=task.scale or (1.0, 1.0),
        crop=task.crop_sides,
        class_share=task.crop_class_share or 1.0,
        hflip=config.augment.hflip,
        distort=PhotometricDistortion(HUE) if task.photometric else None,
        mean=mean,
        std=std,
    )


def evaluation_transform(config: Config) -> EvaluationTransform:
    """What a configuration's evaluation does: the largest of task.min_size, task.max_size, task.align, model.in_chans,
    data.mean and data.std.
    """
    task = config.task
    assert task.min_size
    assert task.max_size
    mean, std = normalisation(config.data, config.model.in_chans)
    return EvaluationTransform(max(task.min_size), task.max_size, task.align or 1, mean, std)


def in_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """An image (3, h, w) as it is, or as grey (1, h, w)."""
    return F.rgb_to_grayscale(image) if channels == 1 else image


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> tv_tensors.Mask:
    """Classes, uint8 (h, w), in another size: those of the pixels whose centres are nearest.

    torchvision's own way with a `Mask` takes the pixels' corners, which moves it against its image by up to half a
    pixel.
    """
    resized = F.resize(torch.from_numpy(labels)[None], list(size), InterpolationMode.NEAREST_EXACT)  # (1, h, w)
    return tv_tensors.Mask(resized[0])


def draw_crop(labels: torch.Tensor, sides: tuple[int, int], share: float) -> tuple[int, int, int, int]:
    """Draws a crop in which no class has more than a share of the pixels that count.

    Args:
        labels: uint8 (h, w).
        sides: H, W; an image that is smaller is taken whole in that direction.
        share: above 0; 1 takes the first crop.

    Returns:
        Top, left, height, width. After `DRAWS` draws without success the last one holds.
    """
    height, width = (min(side, whole) for side, whole in zip(sides, labels.shape, strict=True))
    top = left = 0
    for _ in range(DRAWS):
        top, left = whole_number(0, labels.shape[0] - height), whole_number(0, labels.shape[1] - width)
        if share >= 1 or is_varied(labels[top : top + height, left : left + width], share):
            break
    return top, left, height, width


def is_varied(labels: torch.Tensor, share: float) -> bool:
    """Whether some pixels of labels, uint8 (h, w), count, and no class has more than a share of these."""
    counts = torch.bincount(labels.flatten(), minlength=IGNORED + 1)[:IGNORED]  # (255,)
    return 0 < int(counts.max()) <= share * int(counts.sum())
