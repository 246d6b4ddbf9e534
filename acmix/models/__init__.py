"""The families: baseline and ACmix in one file each, all registered with timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from acmix.errors import UsageError
from acmix.models import pvt as _pvt  # noqa: F401  registers its variants
from acmix.models import resnet as _resnet  # noqa: F401  registers its variants
from acmix.models import san as _san  # noqa: F401  registers its variants
from acmix.models import swin as _swin  # noqa: F401  registers its variants
from acmix.models import vit as _vit  # noqa: F401  registers its variants
from acmix.models.arguments import UnknownArgument, unexpected
from acmix.near import did_you_mean


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a model by name, as `timm.create_model` does.

    Args:
        name: one of `list_models()`, or any other name that timm knows.
        pretrained: load published weights; a RuntimeError says so where there are none.
        kwargs: arguments of the model: num_classes, in_chans, drop_path_rate, img_size, conv_path, features_only, …

    Returns:
        The model, in training mode.

    Raises:
        UsageError: no such model, or an argument that it does not take.
    """
    # a colon leads to a folder or a hub
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        others = [] if name.startswith("acmix_") else timm.list_models()
        hint = did_you_mean(name, [*list_models(), *others], otherwise="acmix.list_models() names them")
        raise UsageError(f"no model {name!r}; {hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except TypeError as error:
        argument, takes = unexpected(name.partition(".")[0], error)
        if argument not in kwargs:
            raise
        raise UnknownArgument(f"{argument}={kwargs[argument]!r}: {takes}") from error


def list_models(filter: str = "") -> list[str]:
    """Names of the models of this library, those that match a pattern with `*` where one is given."""
    names = timm.list_models("acmix_*")
    return [name for name in names if name in timm.list_models(filter)] if filter else names
