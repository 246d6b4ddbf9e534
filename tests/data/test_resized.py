"""A long thin picture is cropped before it is resized, and gives what it would if it were resized as a whole."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from acmix.config import Augment, Data
from acmix.data import resized
from acmix.data.image import evaluation_transform
from acmix.data.training import training_transform

THIN = [(1, 3000), (700, 3), (2, 1999), (40, 900), (1001, 5), (17, 523)]


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def steps_of(data: Data) -> Any:
    return create_transform(
        data.img_size,
        is_training=False,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
        crop_pct=data.crop_pct,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(640, 480), (48, 48), (100, 301), (3, 40)])
def test_an_ordinary_picture_goes_through_timm_s_own_steps(size: tuple[int, int], interpolation: Any) -> None:
    data, picture = Data(img_size=40, interpolation=interpolation), noise(*size)
    drawn: Any = evaluation_transform(data)(picture)
    assert torch.equal(drawn, steps_of(data)(picture))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR])
@pytest.mark.parametrize("size", THIN)
def test_a_thin_picture_gives_the_middle_of_the_whole(size: tuple[int, int], mode: InterpolationMode) -> None:
    picture = noise(*size)
    for side, kept in ((64, 56), (100, 100), (57, 28)):
        step = resized.ResizedCentre(transforms.Resize(side, mode), transforms.CenterCrop(kept))
        whole = step.resize(picture)
        assert step.resized_size(picture) == whole.size
        there, here = (np.asarray(each).astype(int) for each in (step.crop(whole), step.middle(picture, whole.size)))
        # Pillow keeps the place of a part in 32 bits: now and then a value is rounded the other way
        assert there.shape == here.shape
        assert np.abs(there - here).max() <= 1
        assert (there != here).mean() < 0.03


def test_the_nearest_pixels_are_the_same_but_at_a_tie() -> None:
    picture = noise(40, 900)
    step = resized.ResizedCentre(transforms.Resize(64, InterpolationMode.NEAREST), transforms.CenterCrop(56))
    there, here = step.crop(step.resize(picture)), step.middle(picture, step.resized_size(picture))
    assert (np.asarray(there) != np.asarray(here)).mean() < 0.05


@pytest.mark.parametrize("size", [(1, 20_000), (60_000, 2)])
def test_a_thin_picture_takes_no_memory_to_speak_of(size: tuple[int, int]) -> None:
    picture, before = Image.new("RGB", size, (10, 20, 30)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for transform in (
        evaluation_transform(Data()),
        training_transform(Data(), Augment()),
        training_transform(Data(), Augment(scale=None)),
    ):
        drawn: Any = transform(picture)
        assert getattr(drawn, "image", drawn).shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 2**10
