"""How a family's table of variants becomes names that timm knows."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from inspect import signature
from typing import Any

import timm
from timm.models import build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from torch import nn

from acmix.layers import Mixing
from acmix.models.backbone import Backbone

MODEL_CLASSES: dict[str, type[Backbone]] = {}


def register_variants(
    model_class: type[Backbone], variants: dict[str, dict[str, Any]], *, maps: int | None = None
) -> None:
    """Registers every variant with timm under its name.

    Args:
        model_class: built with a variant's arguments, overridden by the caller's.
        variants: name to arguments of the constructor.
        maps: how many maps `features_only=True` gives by default, the last ones; all where None.
    """
    module = sys.modules[model_class.__module__]
    settings = dict(first_conv=model_class.first_conv, classifier=model_class.classifier)
    module.default_cfgs = generate_default_cfgs(  # type: ignore[attr-defined]
        {name: pretrained_cfg(arguments, **settings) for name, arguments in variants.items()}
    )
    for name, arguments in variants.items():
        register_model(entrypoint(name, model_class, arguments, maps))
        MODEL_CLASSES[name] = model_class


def takes_img_size(name: str) -> bool:
    """Whether a model, ours or timm's, is built for one size of images."""
    if name in MODEL_CLASSES:
        return "img_size" in signature(MODEL_CLASSES[name]).parameters
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return known is not None and known.fixed_input_size


def pretrained_cfg(arguments: dict[str, Any], **settings: str) -> dict[str, Any]:
    """What timm's data tools want to know of a variant; there are no weights to download."""
    img_size = arguments.get("img_size", 224)
    return dict(
        url="",
        num_classes=1000,
        input_size=(3, img_size, img_size),
        pool_size=None,
        # 224 is cut out of 256; larger images are taken whole
        crop_pct=224 / 256 if img_size == 224 else 1.0,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        license="apache-2.0",
        **settings,
    )


def entrypoint(name: str, model_class: type[Backbone], arguments: dict[str, Any], maps: int | None):
    """The function that timm calls to build a variant."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        out_indices = kwargs.pop("out_indices", maps)
        # the ablations are plain arguments here, and one object from here on
        given = {each.name: kwargs.pop(each.name) for each in fields(Mixing) if each.name in kwargs}
        if given:
            kwargs["mixing"] = replace(kwargs.get("mixing", Mixing()), **given)
        return build_model_with_cfg(
            model_class,
            name,
            pretrained,
            feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
            **{**arguments, **kwargs},
        )

    build.__name__ = build.__qualname__ = name
    build.__module__ = model_class.__module__
    build.__doc__ = f"`{model_class.__name__}` with {arguments}."
    setattr(sys.modules[model_class.__module__], name, build)
    return build
