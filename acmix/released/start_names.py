"""Names that the weights of our networks bear elsewhere: in the released code, in older timm, in the original ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from acmix.models.pvt import PyramidVisionTransformer
from acmix.models.resnet import ResNet
from acmix.models.swin import SwinTransformer
from acmix.released.weight_keys_resnet import ResNetLayout, check_biases
from acmix.released.weight_keys_swin import SwinLayout
from acmix.released.weight_table import Pair

# what follows from sizes alone and is not kept: index tables, masks, and how often an average was taken
FIXED = re.compile(r"(^|\.)(relative_position_index|attn_mask|relative_coords_table|n_averaged)$")
# what the filters of timm's families were seen to raise on weights of another network
FILTER_ERRORS = (AttributeError, KeyError, IndexError, RuntimeError, ValueError, TypeError, AssertionError)
# the names in the original PVT, and ours; a stage is counted from 1 there
PVT = (
    (re.compile(r"patch_embed(\d)\.proj\."), "stages.{}.patch_embed."),
    (re.compile(r"patch_embed(\d)\.norm\."), "stages.{}.patch_norm."),
    (re.compile(r"pos_embed(\d)$"), "stages.{}.pos_embed"),
    (re.compile(r"block(\d)\."), "stages.{}.blocks."),
)


def renamed(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The same weights under the names that a model knows, as far as they are known; the others keep theirs."""
    weights = {key: value for key, value in weights.items() if not FIXED.search(key)}
    if isinstance(model, (SwinTransformer, ResNet)):
        check_biases(weights)
        return by_table(weights, model)
    if isinstance(model, PyramidVisionTransformer):
        return {pvt_name(key, model): value for key, value in weights.items()}
    if type(model).__module__.startswith("timm.models.") and not model.state_dict().keys() <= weights.keys():
        return by_timm(weights, model)
    return weights


def by_table(weights: dict[str, Tensor], model: SwinTransformer | ResNet) -> dict[str, Tensor]:
    """By the table of the released names; a Swin's hold for the original Swin and for timm's first one too."""
    # merging stands at the end of a stage there, at the start of the next one here: one name, two meanings
    merged_before = any(key.startswith("layers.0.downsample.") for key in weights)
    result = dict(weights)
    moved: dict[str, Tensor] = {}
    for pair in pairs(weights, model):
        if pair.official == pair.ours or pair.official not in weights:
            continue
        if ".downsample." in pair.official and not merged_before:
            continue
        value = result.pop(pair.official)
        if pair.ours is None:
            continue
        fits = value.shape == pair.official_shape
        moved[pair.ours] = value.reshape(pair.shape) if fits else value
    return result | moved


def pairs(weights: Mapping[str, Tensor], model: SwinTransformer | ResNet) -> Iterator[Pair]:
    """The rows of the table of a model's family, for the sizes of the weights."""
    return (SwinLayout if isinstance(model, SwinTransformer) else ResNetLayout).of(weights).pairs()


def pvt_name(key: str, model: PyramidVisionTransformer) -> str:
    """Our name of a weight of the original PVT; any other name stays."""
    for pattern, ours in PVT:
        if at := pattern.match(key):
            return ours.format(int(at[1]) - 1) + key[at.end() :]
    return f"stages.{len(model.stages) - 1}.cls_token" if key == "cls_token" else key


def by_timm(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As timm itself would rename and resize them for a model of one of its families."""
    names = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if names is None:
        return weights
    try:
        given = names(dict(weights), model)
    except FILTER_ERRORS:
        # they are not that network's: what fits by name is seen without it
        return weights
    return {key: value for key, value in given.items() if isinstance(value, Tensor) and not FIXED.search(key)}
