"""The middle of a resized picture, without the rest where that is large: a long thin one costs no more than others."""

# h, w height and width of the picture; H, W those of the resized one

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import pil_modes_mapping

# pixels of a whole resized picture; of a larger one, the part alone is made that is kept
MOST_PIXELS = 2**24
# pixels of the picture that Pillow's filters read on each side of a resized pixel's place, where they enlarge
SUPPORTS = {Image.Resampling.NEAREST: 1, Image.Resampling.BILINEAR: 1, Image.Resampling.BICUBIC: 2}


class ResizedCentre:
    """torchvision's `Resize`, by the shorter side, and `CenterCrop` of a picture, in one step.

    Args:
        resize: to one length.
        crop: what is taken of the result.

    A picture whose resized form has at most `MOST_PIXELS` goes through both, one after the other. Of others, Pillow
    computes the pixels of the crop alone, out of the part of the picture that they depend on; a few of them are
    rounded the other way.
    """

    def __init__(self, resize: transforms.Resize, crop: transforms.CenterCrop) -> None:
        self.resize, self.crop = resize, crop

    def __call__(self, picture: Image.Image) -> Image.Image:
        """A PIL image -> the middle of it, resized."""
        size = self.resized_size(picture)
        if size[0] * size[1] <= MOST_PIXELS:
            return self.crop(self.resize(picture))
        return self.middle(picture, size)

    def __repr__(self) -> str:
        """As the two steps."""
        return f"{self.resize}, {self.crop}"

    def resized_size(self, picture: Image.Image) -> tuple[int, int]:
        """(W, H), as torchvision computes them."""
        shorter: Any = self.resize.size
        width, height = picture.size
        if width <= height:
            return shorter, int(shorter * height / width)
        return int(shorter * width / height), shorter

    def middle(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The crop of a picture that is resized to (W, H), without resizing the rest."""
        kind: Any = self.resize.interpolation
        method = Image.Resampling(pil_modes_mapping[kind])
        crop: Any = self.crop.size
        sides = [min(each, side) for each, side in zip((crop[1], crop[0]), size, strict=True)]
        # as torchvision rounds the middle's place
        firsts = [round((side - each) / 2) for each, side in zip(sides, size, strict=True)]
        spans = [span(*each, SUPPORTS[method]) for each in zip(picture.size, size, firsts, sides, strict=True)]
        # whole pixels first, so that the rest of the place is a small number, which Pillow keeps in 32 bits
        (left, right, x0, x1), (top, bottom, y0, y1) = spans
        part = picture.crop((left, top, right, bottom))
        middle = part.resize((sides[0], sides[1]), method, box=(x0, y0, x1, y1))
        # smaller than the crop only where the picture is; torchvision then fills up
        return self.crop(middle)


def span(length: int, resized: int, first: int, kept: int, support: int) -> tuple[int, int, float, float]:
    """Which pixels of a side the kept ones of its resized form depend on.

    Args:
        length: of the side.
        resized: its length when resized.
        first: of the resized pixels that are kept.
        kept: how many of them.
        support: pixels that the filter reads on each side, where it enlarges.

    Returns:
        The first pixel and the one behind the last, and where the kept ones begin and end from the first on.
    """
    scale = length / resized
    begin, end = first * scale, (first + kept) * scale
    margin = support * max(1.0, scale) + 1
    low, high = max(0, math.floor(begin - margin)), min(length, math.ceil(end + margin))
    return low, high, begin - low, min(end, length) - low


def bounded(transform: Any) -> Any:
    """A transform of timm's in which resizing and cropping are one step.

    Args:
        transform: a `Compose`; others, and other ways to crop, stay as they are.
    """
    steps = [*transform.transforms]
    for place, (one, other) in enumerate(pairwise(steps)):
        is_pair = isinstance(one, transforms.Resize) and isinstance(other, transforms.CenterCrop)
        if is_pair and isinstance(one.size, int):
            return transforms.Compose([*steps[:place], ResizedCentre(one, other), *steps[place + 2 :]])
    return transform
