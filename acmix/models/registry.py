"""How a family's table of variants becomes names that timm knows."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import fields, replace
from inspect import signature
from typing import Any

import timm
import torch
from timm.models import FeatureDictNet, build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from torch import nn

from acmix.errors import UsageError
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
    settings: Any = dict(
        first_conv=model_class.first_conv, classifier=model_class.classifier, stride=model_class.last_stride
    )
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


def pretrained_cfg(arguments: dict[str, Any], *, stride: int | None, **settings: str) -> dict[str, Any]:
    """What timm's data tools want to know of a variant; there are no weights to download."""
    img_size = arguments.get("img_size", 224)
    return dict(
        url="",
        num_classes=1000,
        input_size=(3, img_size, img_size),
        pool_size=None if stride is None else (-(-img_size // stride),) * 2,
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

    def build(pretrained: bool = False, device: Any = None, dtype: Any = None, **kwargs: Any) -> nn.Module:
        # the ablations are plain arguments here, and one object from here on
        given = {each.name: kwargs.pop(each.name) for each in fields(Mixing) if each.name in kwargs}
        if given:
            kwargs["mixing"] = replace(kwargs.get("mixing", Mixing()), **given)
        check_output_stride(model_class, kwargs)
        feature_cfg: dict[str, Any] = {"feature_cls": "getter", "out_indices": None, **kwargs.pop("feature_cfg", {})}
        for key in ("feature_cls", "out_indices"):
            feature_cfg[key] = kwargs.pop(key, feature_cfg[key])
        rebuilt = is_rebuilt(feature_cfg["feature_cls"])
        if rebuilt and not model_class.is_sequence:
            raise UsageError(
                f"feature_cls={feature_cfg['feature_cls']!r} runs a network's children one after the other, and "
                f"{model_class.__name__} does more between them; use 'getter', 'hook' or 'fx'"
            )

        def made(**given: Any) -> Backbone:
            with nullcontext() if device is None else torch.device(device):
                model = model_class(**given)
            if dtype is not None:
                model.to(dtype=dtype)
            if rebuilt:
                # children of children, where the stages are such
                feature_cfg["flatten_sequential"] = "." in model.steps[0]
            if feature_cfg["out_indices"] is None:
                count = len(model.feature_info)
                feature_cfg["out_indices"] = tuple(range(count))[-min(maps or count, count) :]
            return model

        return build_model_with_cfg(made, name, pretrained, feature_cfg=feature_cfg, **{**arguments, **kwargs})

    build.__name__ = build.__qualname__ = name
    build.__module__ = model_class.__module__
    build.__doc__ = f"`{model_class.__name__}` with {arguments}."
    setattr(sys.modules[model_class.__module__], name, build)
    return build


def check_output_stride(model_class: type[Backbone], kwargs: dict[str, Any]) -> None:
    """Takes timm's `output_stride` from a family whose maps cannot be kept larger, and refuses what is not its own."""
    if "output_stride" in signature(model_class).parameters or "output_stride" not in kwargs:
        return
    stride = kwargs.pop("output_stride")
    # 32 is timm's default
    if stride not in (None, 32):
        raise UsageError(
            f"output_stride={stride}: {model_class.__name__} has no dilation to keep its maps larger; "
            "leave it out, or use one of acmix_resnet26, acmix_resnet38, acmix_resnet50"
        )


def is_rebuilt(feature_cls: str | type) -> bool:
    """Whether one of timm's extractors of features takes a network apart and runs its children."""
    if isinstance(feature_cls, str):
        return feature_cls.lower() in ("list", "dict")
    return issubclass(feature_cls, FeatureDictNet)
