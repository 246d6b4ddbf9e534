"""The families: baseline and ACmix in one file each, all registered with timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from acmix.models import pvt as _pvt  # noqa: F401  registers its variants
from acmix.models import resnet as _resnet  # noqa: F401  registers its variants
from acmix.models import san as _san  # noqa: F401  registers its variants
from acmix.models import swin as _swin  # noqa: F401  registers its variants
from acmix.models import vit as _vit  # noqa: F401  registers its variants


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model by name, as `timm.create_model` does.

    Args:
        name: one of `list_models()`, or any other name that timm knows.
        pretrained: load published weights; a RuntimeError says so where there are none.
        kwargs: arguments of the model: num_classes, in_chans, drop_path_rate, img_size, conv_path, features_only, …

    Returns:
        The model, in training mode.
    """
    return timm.create_model(name, pretrained=pretrained, **kwargs)


def list_models(filter: str = "") -> list[str]:
    """Names of the models of this library, those that match a pattern with `*` where one is given."""
    names = timm.list_models("acmix_*")
    return [name for name in names if name in timm.list_models(filter)] if filter else names
