"""How a configuration prepares pictures for its model, by task, as fields of `acmix.load`'s `Info`."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from acmix.config import Config
from acmix.data.image import evaluation_transform, normalisation
from acmix.data.joint import as_image, to_float
from acmix.data.pictures import Transform


def preparation(config: Config) -> dict[str, Any]:
    """The size, channels and transform of a model's pictures, as evaluation has them."""
    return {"classify": of_classifier, "detect": of_detector, "segment": of_segmenter}[config.task.name](config)


def of_classifier(config: Config) -> dict[str, Any]:
    """Resized, cropped and normalised."""
    data, in_chans = config.data, config.model.in_chans
    steps, mean, std = None, data.mean, data.std
    if in_chans in (1, 3):
        steps = evaluation_transform(data, in_chans)
        mean, std = normalisation(data, in_chans)
    return dict(
        img_size=data.img_size,
        in_chans=in_chans,
        mean=mean,
        std=std,
        interpolation="bicubic" if data.interpolation == "random" else data.interpolation,
        crop_pct=data.crop_pct,
        transform=Transform(in_chans, steps, data.background_rgb, data.white),
    )


def of_detector(config: Config) -> dict[str, Any]:
    """As the picture is: a detector resizes and normalises by itself."""
    return of_any_size(config, grey_from_zero_to_one if config.model.in_chans == 1 else from_zero_to_one)


def of_segmenter(config: Config) -> dict[str, Any]:
    """Resized as a whole, and normalised."""
    from acmix.data import segmentation_transforms

    return of_any_size(config, segmentation_transforms.evaluation_transform(config).image)


def of_any_size(config: Config, steps: Any) -> dict[str, Any]:
    """Pictures of any size."""
    assert config.task.min_size
    data, in_chans = config.data, config.model.in_chans
    mean, std = normalisation(data, in_chans)
    return dict(
        img_size=max(config.task.min_size),
        in_chans=in_chans,
        mean=mean,
        std=std,
        interpolation="bilinear",
        crop_pct=1.0,
        transform=Transform(in_chans, steps, data.background_rgb, data.white),
    )


def from_zero_to_one(picture: Image.Image) -> Tensor:
    """An RGB picture as float32 (3, h, w) from 0 to 1."""
    return to_float(as_image(picture))


def grey_from_zero_to_one(picture: Image.Image) -> Tensor:
    """An RGB picture as grey float32 (1, h, w) from 0 to 1."""
    return to_float(as_image(picture.convert("L")))
