"""Whole released checkpoints: the configuration that goes with the weights of one, and one made of weights of ours."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from acmix.errors import UsageError
from acmix.models.resnet import VARIANTS
from acmix.released.load import is_official
from acmix.released.weight_keys_resnet import check_resnet, variant_of
from acmix.released.weights import architecture, family_of, to_official
from acmix.released.yaml_keys import NETWORKS
from acmix.released.yaml_read import read_official
from acmix.released.yaml_write import write_official

if TYPE_CHECKING:
    from acmix.config import Config


def configuration_of(content: Mapping[str, Any], name: str | None, source: Path) -> tuple[Config, str]:
    """Makes the configuration that released weights belong to.

    Args:
        content: a released checkpoint, or its weights alone.
        name: the model they are meant for; None: as the file or the sizes of the weights tell.
        source: the file, for messages.

    Returns:
        The configuration, and what a user should know about where its training settings come from, or "".

    Raises:
        UsageError: the weights are of another family than `name`, or of a lone layer.
    """
    family = family_of(content, name).names
    if name and not fnmatch.fnmatchcase(name, family):
        raise UsageError(
            f"the weights in {source} are not {name}'s: they look like those of {family}; "
            "leave the name out, or give one of that family"
        )
    if family == "acmix2d":
        raise UsageError(
            f"{source} holds a single layer, not a model; read it with acmix.from_official(state_dict, 'acmix2d')"
        )
    return (_resnet if family == "acmix_resnet*" else _swin)(content, name, source)


def write_checkpoint(weights: Mapping[str, Tensor], settings: Config) -> dict[str, Any]:
    """Makes a released checkpoint of our weights; of the configuration it holds what builds the network again.

    Raises:
        UsageError: the released code has no such network, or the weights are not those of the model it names.
    """
    from acmix.config import Config, Data

    released: dict[str, Any] = {"model": to_official(weights, settings.model.name, img_size=settings.data.img_size)}
    if settings.model.name in NETWORKS:
        # training may have settings that the layout lacks
        network = write_official(Config(model=settings.model, data=Data(img_size=settings.data.img_size)))
        released["config"] = {"MODEL": network["MODEL"], "DATA": {"IMG_SIZE": settings.data.img_size}}
    return released


def _resnet(content: Mapping[str, Any], name: str | None, source: Path) -> tuple[Config, str]:
    """The published recipe for a ResNet, with the sizes that the weights tell."""
    from acmix import config

    sizes = architecture(content, name)
    name = name or variant_of(sizes["layers"]) or "acmix_resnet50"
    check_resnet(name)
    usual = dict(width=64, heads=4) | VARIANTS[name]
    tree = config.load(name).model_dump(mode="json")
    tree["model"] |= {key: sizes[key] for key in ("num_classes", "in_chans", "conv_path")}
    tree["model"]["args"] = {key: sizes[key] for key in usual if sizes[key] != usual[key]}
    note = "; training settings are those of the published recipe"
    return config.validate(tree, where=f"the configuration for {source}"), note


def _swin(content: Mapping[str, Any], name: str | None, source: Path) -> tuple[Config, str]:
    """Training settings come from the configuration in the file, the network's sizes from the weights themselves."""
    from acmix import config

    sizes = architecture(content)
    saved = content.get("config")
    training: dict[str, Any] = {}
    note = "; the file has no configuration, training settings are the released defaults"
    if isinstance(saved, dict) and is_official(saved):
        try:
            training, note = read_official(saved), ""
        except UsageError as error:
            note = f"; its training settings were left out: {error}"
    said = saved.get("MODEL") if isinstance(saved, dict) else None
    keys = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size", "qkv_bias", "in_chans")
    network = {
        "NAME": name or (str(said.get("NAME", "")) if isinstance(said, dict) else ""),
        "NUM_CLASSES": sizes["num_classes"],
        "SWIN": {key.upper(): sizes[key] for key in keys},
    }
    tree = read_official({"MODEL": network})
    for section in training.keys() - {"model"}:
        tree[section] |= training[section]
    if training:
        tree["model"]["drop_path_rate"] = training["model"]["drop_path_rate"]
    tree["model"]["conv_path"] = sizes["conv_path"]
    tree["data"]["img_size"] = sizes["img_size"] or tree["data"]["img_size"]
    return config.validate(tree, where=f"the configuration in {source}"), note
