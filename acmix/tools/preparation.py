"""How a configuration prepares pictures for its model, by task, as fields of `acmix.load`'s `Info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from acmix.config import Config
from acmix.data.image import evaluation_transform, normalisation, with_channels
from acmix.data.joint import as_image, to_float
from acmix.data.pictures import Transform
from acmix.data.resized import bounded
from acmix.errors import UsageError
from acmix.tools.description import MULTIPLE, Preprocessing, sides_of


def preparation(config: Config) -> dict[str, Any]:
    """The size, channels and transform of a model's pictures, as evaluation has them."""
    return {"classify": of_classifier, "detect": of_detector, "segment": of_segmenter}[config.task.name](config)


def preprocessing_of(prepared: Mapping[str, Any], config: Config | None) -> Preprocessing:
    """How pictures become what a model's export reads; of a detector, also what it does by itself.

    Args:
        prepared: fields of `acmix.load`'s `Info`, such as `preparation` gives.
        config: of the model's run; None where there is none, as of a classifier of timm's.
    """
    task = config.task if config is not None and config.task.name != "classify" else None
    detects = task is not None and task.name == "detect"
    return Preprocessing(
        in_chans=prepared["in_chans"],
        img_size=prepared["img_size"],
        max_size=task.max_size if task else None,
        align=(task.align if task else None) or 1,
        multiple=MULTIPLE if detects else 1,
        mean=prepared["mean"],
        std=prepared["std"],
        interpolation=prepared["interpolation"],
        antialias=not detects,
        crop_pct=prepared["crop_pct"],
        crop_mode=prepared.get("crop_mode", "center"),
        background=prepared["transform"].background,
        white=prepared["transform"].white,
    )


def preparation_said_twice(told: Preprocessing, config: Config, path: Path) -> dict[str, Any]:
    """`preparation` of a file that also has a `preprocessing`, of which older files tell less.

    Args:
        told: the file's `preprocessing`.
        config: the file's configuration.
        path: the file, for messages.

    Raises:
        UsageError: they disagree; names the first field that differs.
    """
    prepared = preparation(config)
    own = preprocessing_of(prepared, config)
    for name in type(told).model_fields:
        if name in told.model_fields_set and getattr(told, name) != getattr(own, name):
            raise UsageError(
                f"{path} says {name} {getattr(told, name)} in its preprocessing and {getattr(own, name)} in its "
                "configuration; export it again"
            )
    return prepared


def preparation_told(told: Preprocessing) -> dict[str, Any]:
    """How images are prepared for a classifier whose file holds no configuration, as fields of `Info`."""
    height, width = sides_of(told.img_size)
    transform = None
    if told.in_chans in (1, 3):
        steps = create_transform(
            input_size=(told.in_chans, height, width),
            mean=told.mean,
            std=told.std,
            interpolation=told.interpolation,
            crop_pct=told.crop_pct,
            crop_mode=told.crop_mode,
            is_training=False,
        )
        transform = with_channels(bounded(steps), told.in_chans)
    return dict(
        img_size=told.img_size,
        in_chans=told.in_chans,
        mean=told.mean,
        std=told.std,
        interpolation=told.interpolation,
        crop_pct=told.crop_pct,
        crop_mode=told.crop_mode,
        transform=Transform(told.in_chans, transform, told.background, told.white),
    )


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
