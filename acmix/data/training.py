"""What training does to a picture, in timm's order and with timm's draws: crop, flips, colours, erasing.

The result stays in bytes. Normalising it, and writing what is erased, is left to the device (`acmix.data.batch`): a
byte is a quarter of a float on the way there. Crops are resized by PyTorch's kernel for bytes, whose values are within
two steps of Pillow's.
"""

# h, w height and width of a picture or a crop; H, W those of the result, both data.img_size; C channels, 3 or 1

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from acmix.config import Augment, Data
from acmix.data.image import evaluation_transform, normalisation
from acmix.data.operations import takes_pixels, use_arrays
from acmix.data.policy import check_policy
from acmix.data.resized import ResizedCentre

# left, top, width, height in pixels
Box = tuple[int, int, int, int]
# parts of a side at which JPEG files can be decoded
REDUCTIONS = (2, 4, 8)


class Erased(NamedTuple):
    """A rectangle that is written over once the image is normalised."""

    top: int
    left: int
    height: int
    width: int
    values: torch.Tensor  # float32 (C, height, width), or (C, 1, 1) for one colour


class Prepared(NamedTuple):
    """An image on its way to a model, and what of it is erased."""

    image: torch.Tensor  # (C, H, W): uint8 in training, float32 and normalised in evaluation
    erased: tuple[Erased, ...] = ()


class RandomCrop:
    """timm's random resized crop: the same box and filter are drawn.

    Args:
        step: timm's, for its sizes and shares.
    """

    def __init__(self, step: RandomResizedCropAndInterpolation) -> None:
        self.step = step
        self.size: tuple[int, int] = step.size

    def box(self, picture: Image.Image | torch.Tensor) -> Box:
        """Draws the part of a picture that is kept."""
        top, left, height, width = self.step.get_params(picture, self.step.scale, self.step.ratio)
        return left, top, width, height

    @property
    def takes_pixels(self) -> bool:
        """Whether pictures may come as pixels."""
        return self.step.interpolation != InterpolationMode.NEAREST

    def __call__(self, picture: Image.Image | torch.Tensor, box: Box) -> torch.Tensor:
        """That part, resized: uint8 (C, H, W); of a picture, or of its pixels, uint8 (C, h, w)."""
        mode: Any = self.step.interpolation
        mode = random.choice(mode) if isinstance(mode, list | tuple) else mode
        left, top, width, height = box
        if isinstance(picture, torch.Tensor):
            part = picture[:, top : top + height, left : left + width]
        else:
            cut = picture.crop((left, top, left + width, top + height))
            if mode == InterpolationMode.NEAREST:
                return pixels_of(cut.resize((self.size[1], self.size[0]), Image.Resampling.NEAREST))
            part = pixels_of(cut)
        # as a batch of one whose channels lie side by side, which the kernel reads and writes without a copy
        images = part.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # (1, C, h, w)
        return F.interpolate(images, self.size, mode=mode.value, antialias=True)[0]


class DrawnBox:
    """The part of one picture that is kept, drawn once: before its file is decoded where that leaves less to decode.

    Args:
        crop: draws it.
        draft: whether a file may be decoded at a part of its size.
        takes_pixels: whether the picture may come as pixels.
    """

    def __init__(self, crop: RandomCrop | Centre, *, draft: bool, takes_pixels: bool) -> None:
        self.crop, self.takes_pixels = crop, takes_pixels
        # for `read_image`
        self.reduced = self.draw if draft else None
        self.box: Box | None = None
        self.parts = 1

    def draw(self, picture: Image.Image) -> int:
        """Draws the box of a picture that is opened; the largest reduction that leaves it pixels enough."""
        if self.box is None:
            _, _, width, height = self.box = self.crop.box(picture)
            rows, columns = self.crop.size
            self.parts = max((n for n in REDUCTIONS if width >= n * columns and height >= n * rows), default=1)
        return self.parts

    def on(self, picture: Image.Image | torch.Tensor) -> Box:
        """The box on the picture as it was decoded."""
        if self.box is None:
            return self.crop.box(picture)
        if self.parts == 1:
            return self.box
        assert isinstance(picture, Image.Image)
        left, top, width, height = (round(length / self.parts) for length in self.box)
        # rounded up, a box may end a pixel beyond the picture
        return left, top, min(width, picture.width - left), min(height, picture.height - top)


class Centre:
    """The crop of evaluation in the place of a random one."""

    takes_pixels = False

    def __init__(self, step: ResizedCentre) -> None:
        self.step = step
        side: Any = step.crop.size
        self.size: tuple[int, int] = side

    def box(self, picture: Image.Image | torch.Tensor) -> Box:
        """The whole picture."""
        assert isinstance(picture, Image.Image)
        return 0, 0, picture.width, picture.height

    def __call__(self, picture: Image.Image | torch.Tensor, box: Box) -> torch.Tensor:
        """The middle of a picture: uint8 (C, H, W)."""
        assert isinstance(picture, Image.Image)
        return pixels_of(self.step(picture))


class TrainingTransform:
    """Prepares pictures for training; build it with `training_transform`.

    Args:
        grey: a step to grey, or None.
        crop: draws a box and resizes what is in it.
        hflip, vflip: probabilities of flips.
        colours: steps from picture to picture; policies with `use_arrays`, from pixels to pixels.
        erasing: timm's, or None.
        draft: whether files may be decoded at a part of their size.
    """

    def __init__(
        self,
        *,
        grey: Callable[[Image.Image], Image.Image] | None,
        crop: RandomCrop | Centre,
        hflip: float,
        vflip: float,
        colours: Sequence[Callable[[Image.Image], Image.Image]],
        erasing: RandomErasing | None,
        draft: bool = False,
    ) -> None:
        self.grey, self.crop, self.hflip, self.vflip = grey, crop, hflip, vflip
        self.colours, self.erasing = colours, erasing
        self.draft = draft and isinstance(crop, RandomCrop)

    def __call__(self, picture: Image.Image | torch.Tensor, drawn: DrawnBox | None = None) -> Prepared:
        """Changes a picture as Python's, NumPy's and torch's generators say.

        Args:
            picture: RGB, or its pixels, uint8 (3, h, w), if the box takes them.
            drawn: of `new_box`, where the crop may have been drawn before the picture was decoded.
        """
        box = self.crop.box(picture) if drawn is None else drawn.on(picture)
        if self.grey is not None and isinstance(picture, Image.Image):
            picture = self.grey(picture)
        image = self.coloured(self.flipped(self.crop(picture, box)))  # (C, H, W)
        return Prepared(image, self.erased(image))

    def new_box(self) -> DrawnBox:
        """What draws the crop of the next picture."""
        takes_pixels = self.grey is None and self.crop.takes_pixels
        return DrawnBox(self.crop, draft=self.draft, takes_pixels=takes_pixels)

    def flipped(self, image: torch.Tensor) -> torch.Tensor:
        """Flips an image (C, H, W) by chance, drawn as torchvision draws it."""
        axes = [axis for axis, share in ((2, self.hflip), (1, self.vflip)) if share > 0 and torch.rand(1) < share]
        return image.flip(axes) if axes else image

    def coloured(self, image: torch.Tensor) -> torch.Tensor:
        """Changes colours, and what else a policy changes, of an image (C, H, W)."""
        if not self.colours:
            return image
        shown: Any
        before = shown = values_of(image)
        for step in self.colours:
            if not takes_pixels(step) and not isinstance(shown, Image.Image):
                shown = Image.fromarray(shown)
            elif takes_pixels(step) and isinstance(shown, Image.Image):
                shown = np.array(shown)
            shown = step(shown)
        return image if shown is before else pixels_of(shown)

    def erased(self, image: torch.Tensor) -> tuple[Erased, ...]:
        """Draws what timm's step writes into an image (C, H, W)."""
        if self.erasing is None:
            return ()
        written = Written(image.shape)
        self.erasing(written)
        return tuple(written.rectangles)


class Written:
    """Stands for a normalised image and notes what is written into it.

    Args:
        shape: (C, H, W).
    """

    dtype = torch.float32

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.rectangles: list[Erased] = []

    def size(self) -> torch.Size:
        """The shape, as a tensor tells it."""
        return self.shape

    def __setitem__(self, place: tuple[slice, slice, slice], values: torch.Tensor) -> None:
        _, rows, columns = place
        sides = rows.stop - rows.start, columns.stop - columns.start
        self.rectangles.append(Erased(rows.start, columns.start, *sides, values))


def training_transform(data: Data, augment: Augment, in_chans: int = 3) -> TrainingTransform:
    """Builds what training does to a picture; mixup and cutmix come later, on whole batches.

    As in timm and in the Swin recipe, `auto_augment` switches `color_jitter` off. Without `augment.scale`, the crop is
    that of evaluation.

    Args:
        data: gives img_size, interpolation, mean, std and draft, and crop_pct without `augment.scale`.
        augment: crops, flips, colours and erasing.
        in_chans: 3, or 1 for grey.

    Returns:
        A transform from an RGB picture to `Prepared`: uint8 (in_chans, img_size, img_size), and what is erased.

    Raises:
        UsageError: mean or std do not fit in_chans; an unknown policy.
    """
    mean, std = normalisation(data, in_chans)
    if augment.auto_augment:
        check_policy(augment.auto_augment)
    parts: Any = create_transform(
        data.img_size,
        is_training=True,
        scale=augment.scale or (1.0, 1.0),
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,  # pyright: ignore[reportArgumentType]  (None is allowed)
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode=augment.random_erasing_mode,
        re_count=augment.random_erasing_count,
        interpolation=data.interpolation,
        mean=mean,
        std=std,
        separate=True,
    )
    first, colours, last = (each.transforms for each in parts)
    use_arrays(colours)
    erasing = [step for step in last if isinstance(step, RandomErasing)]
    return TrainingTransform(
        grey=transforms.Grayscale() if in_chans == 1 else None,
        crop=RandomCrop(first[0]) if augment.scale else Centre(centre_of(data, in_chans)),
        hflip=augment.hflip,
        vflip=augment.vflip,
        colours=colours,
        erasing=erasing[0] if erasing else None,
        draft=data.draft,
    )


def centre_of(data: Data, in_chans: int) -> ResizedCentre:
    """Evaluation's resizing and cropping."""
    steps: Any = evaluation_transform(data, in_chans)
    (centre,) = (step for step in steps.transforms if isinstance(step, ResizedCentre))
    return centre


def pixels_of(shown: Image.Image | np.ndarray) -> torch.Tensor:
    """A picture, or its pixels, as uint8 (C, h, w), whose channels lie side by side in memory."""
    values = torch.from_numpy(np.array(shown) if isinstance(shown, Image.Image) else shown)  # (h, w, C) or (h, w)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def values_of(image: torch.Tensor) -> np.ndarray:
    """An image, uint8 (C, h, w), as pixels (h, w, C), or (h, w) where it has one channel."""
    values = image.permute(1, 2, 0).contiguous().numpy()  # (h, w, C)
    return values[..., 0] if values.shape[2] == 1 else values
