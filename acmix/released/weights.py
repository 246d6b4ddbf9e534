"""The released weights under our names, and ours under theirs: one two-way table a family, strict both ways.

Every key of a file is renamed, reshaped or dropped by a row of its family's table. A key that no row names, or one that
the model needs and the file lacks, is an error that lists both sides. A released Swin differs from ours in four ways:
patches are merged at the end of a stage, the classifier is called `head`, the convolution path's tensors have other
names and shapes, and two tables that follow from the sizes alone are saved. A released ResNet differs in the names
within its modules, and a lone module, "acmix2d", in the same.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acmix.errors import UsageError
from acmix.released.weight_keys_resnet import LayerLayout, ResNetLayout, read_layer, read_resnet
from acmix.released.weight_keys_swin import SwinLayout, read_swin
from acmix.released.weight_table import Layout


def from_official(state_dict: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Renames a released checkpoint's weights to this library's names; strict both ways.

    Args:
        state_dict: the released names and tensors, or the whole checkpoint that has them under `model` or
            `state_dict`. Depths, widths, heads and windows are read off the tensors, so small models convert too.
        name: the model the weights are meant for, e.g. `acmix_swin_tiny_patch4_window7_224` or `acmix_resnet50`;
            "acmix2d" for those of a single module.

    Returns:
        What `model.load_state_dict` takes: our names, the same numbers, sharing memory where no shape changes.

    Raises:
        UsageError: an unknown key, a missing key, a wrong shape, or weights of another model than `name`.
    """
    family, weights = _family(name), _weights(state_dict)
    pairs = list(family.read(weights, name).pairs())
    table = [Move(pair.official, pair.ours, pair.official_shape, pair.shape) for pair in pairs]
    return _translate(weights, table, f"the released layout of {name}", "acmix")


def to_official(
    state_dict: Mapping[str, Any], name: str, *, img_size: int | tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Renames this library's weights to the released names, with the index tables and masks that layout saves.

    Args:
        state_dict: our names and tensors, or a whole checkpoint of ours.
        name: the model the weights belong to.
        img_size: side in pixels of the images, or (height, width), that masks are made for; None: as `name` says. A
            ResNet has no masks and works at any size.

    Returns:
        The released names, in the released order.

    Raises:
        UsageError: an unknown key, a missing key, a wrong shape, or a size the released code cannot be built for.
    """
    family, weights = _family(name), _weights(state_dict)
    layout = family.read(weights, name)
    pairs = list(layout.pairs())
    table = [Move(pair.ours, pair.official, pair.shape, pair.official_shape) for pair in pairs]
    found = _translate(weights, table, f"the layout of {name}", "official")
    found |= layout.tables(img_size)
    return {pair.official: found[pair.official] for pair in pairs if pair.official in found}


def architecture(state_dict: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Reads a network's sizes off its weights, released or ours, under the names of the constructor's arguments.

    Args:
        state_dict: names and tensors, or the whole checkpoint.
        name: a model of the family to read them as, where the weights do not tell.

    Returns:
        Of a Swin `embed_dim`, `depths`, `num_heads`, `window_size`, `mlp_ratio`, `patch_size`, `qkv_bias`, `in_chans`,
        `num_classes`, `conv_path`, and `img_size`: what saved masks tell of it, else None. Of a ResNet `layers`,
        `width`, `heads`, `in_chans`, `num_classes`, `conv_path`. Of a single module `in_channels`, `out_channels`,
        `heads`, `conv_size`.
    """
    weights = _weights(state_dict)
    layout = family_of(weights, name).sizes(weights)
    masked = {"img_size": layout.masked_size(weights)} if isinstance(layout, SwinLayout) else {}
    return layout.settings() | masked


@dataclass(frozen=True)
class Family:
    """The models one table is about."""

    names: str
    read: Callable[[Mapping[str, Tensor], str], Layout]
    sizes: Callable[[Mapping[str, Tensor]], Layout]
    # how one of the keys looks that tell these weights from other families'
    tell: str


FAMILIES = (
    Family("acmix_swin_*", read_swin, SwinLayout.of, "layers.*"),
    Family("acmix_resnet*", read_resnet, ResNetLayout.of, "layer1.*"),
    Family("acmix2d", read_layer, LayerLayout.of, "rate*"),
)


def family_of(state_dict: Mapping[str, Any], name: str | None = None) -> Family:
    """The family that weights look like; where they look like none, that of `name`, or the first."""
    weights = _weights(state_dict)
    alike = (family for family in FAMILIES if any(fnmatch.fnmatchcase(key, family.tell) for key in weights))
    named = (family for family in FAMILIES if name and fnmatch.fnmatchcase(name, family.names))
    return next(alike, None) or next(named, FAMILIES[0])


@dataclass(frozen=True)
class Move:
    """One tensor's way from the file's name to the wanted one."""

    source: str | None
    target: str | None
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]


def _translate(weights: dict[str, Tensor], table: list[Move], expected: str, wanted: str) -> dict[str, Tensor]:
    left, moved, missing, misshapen = dict(weights), {}, [], []
    for move in table:
        if move.source is None:
            continue
        tensor = left.pop(move.source, None)
        if move.target is None:
            continue
        if tensor is None:
            missing.append(move)
        elif tuple(tensor.shape) == move.source_shape or (move.source_shape == (1,) and tensor.ndim == 0):
            moved[move.target] = tensor.detach().reshape(move.target_shape)
        else:
            misshapen.append(f"{move.source} {tuple(tensor.shape)}, expected {move.source_shape}")
    if left or missing or misshapen:
        already = bool(missing) and all(move.target in left for move in missing)
        raise UsageError(
            f"the weights do not have {expected}: keys in the file we do not know: {_listed(left)}; "
            f"keys the model needs that the file lacks: {_listed(str(move.source) for move in missing)}"
            + (f"; wrong shapes: {_listed(misshapen)}" if misshapen else "")
            + (f"; they already have {wanted} names" if already else "; check the file and the model's name")
        )
    return moved


def _listed(keys: Iterable[str], most: int = 12) -> str:
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return (", ".join(keys[:most]) or "none") + more


def _family(name: str) -> Family:
    for family in FAMILIES:
        if fnmatch.fnmatchcase(name, family.names):
            return family
    known = ", ".join(family.names for family in FAMILIES)
    raise UsageError(f"no table of released weights for {name!r}; there is one for {known}")


def _weights(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by name, out of a checkpoint's wrapping and without the prefix that DistributedDataParallel sets."""
    weights: Any = state_dict
    for key in ("model", "state_dict"):
        if isinstance(state_dict, Mapping) and isinstance(state_dict.get(key), Mapping):
            weights = state_dict[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise UsageError(f"expected names and tensors, or a checkpoint with them under 'model', not {_said(weights)}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UsageError(f"{key!r} holds {_said(value)}; expected a tensor: give the model's state dict alone")
    prefix = "module." if all(key.startswith("module.") for key in weights) else ""
    return {key.removeprefix(prefix): value for key, value in weights.items()}


def _said(value: object) -> str:
    return f"{'an empty ' if value == {} else ''}{type(value).__name__}"
