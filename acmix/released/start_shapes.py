"""Weights made for another window, image size or number of channels, resized as timm resizes them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed, resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from torch import Tensor, nn

BIASES = "relative_position_bias_table"


def adapted(model: nn.Module, key: str, value: Tensor, own: Tensor, *, square: bool = True) -> Tensor | None:
    """A tensor of a file in the shape that a model has it.

    Args:
        model: has the tensor.
        key: its name there.
        value: what the file holds.
        own: what the model holds.
        square: whether positions in the file are those of square windows and images, as everybody takes them to be;
            where not, they are taken as they are or not at all.

    Returns:
        The file's tensor where the shapes differ in nothing but sides of 1; what timm makes of it where it is a table
        of positions or reads the image; None where it cannot be adapted.
    """
    parent, alike = model.get_submodule(key.rpartition(".")[0]), value.shape == own.shape
    made = None
    if key.endswith(BIASES):
        made = bias_table(parent, value, own) if square else value
    elif key.endswith("pos_embed"):
        made = positions(parent, value, own) if square else value
    elif key in stems(model) and not alike:
        made = stem(parent, value, own)
    elif alike or [side for side in value.shape if side > 1] == [side for side in own.shape if side > 1]:
        made = value.reshape(own.shape)
    made = value if made is None and alike else made
    return made if made is not None and made.shape == own.shape else None


def bias_table(attention: Any, value: Tensor, own: Tensor) -> Tensor | None:
    """A table of relative positions, one column a head (T, N), for another window; of a square window in the file."""
    window = getattr(attention, "window", None) or getattr(attention, "window_size", None)
    if window is None or value.ndim != 2 or own.ndim != 2 or value.shape[1] != own.shape[1]:
        return None
    if not is_square(value.shape[0]):
        return None
    with warnings.catch_warnings():
        # PyTorch's words about how timm indexes
        warnings.simplefilter("ignore", UserWarning)
        return resize_rel_pos_bias_table(value, new_window_size=tuple(window), new_bias_shape=tuple(own.shape))


def positions(module: Any, value: Tensor, own: Tensor) -> Tensor | None:
    """Positions for another grid of patches, behind those of tokens without a place: (1, T + H·W, C)."""
    grid = getattr(module, "learned_grid", None) or getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if grid is None or value.ndim != 3 or own.ndim != 3 or value.shape[2] != own.shape[2]:
        return None
    first = own.shape[1] - grid[0] * grid[1]
    # at most one count of such tokens leaves a square: a class token, none, or one more for distillation
    found = next((count for count in (first, 1, 0, 2) if is_square(value.shape[1] - count)), None)
    if found is None:
        return None
    # a token that the file lacks keeps the position it was drawn with
    tokens = torch.cat([value[:, : min(found, first)], own[:, found:first].to(value), value[:, found:]], 1)
    return resample_abs_pos_embed(tokens, new_size=list(grid), num_prefix_tokens=first)


def is_square(count: int) -> bool:
    """Whether so many entries form a square."""
    return count > 0 and math.isqrt(count) ** 2 == count


def stems(model: Any) -> list[str]:
    """Names of the weights that read the image."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = getattr(model, "first_conv", None) or config.get("first_conv") or ()
    return [f"{name}.weight" for name in ([names] if isinstance(names, str) else names)]


def stem(layer: Any, value: Tensor, own: Tensor) -> Tensor | None:
    """The kernels that read the image, for other channels or patches: (C, in_chans, side, side)."""
    if value.ndim != 4 or own.ndim != 4:
        return None
    if value.shape[2:] != own.shape[2:]:
        if getattr(layer, "stride", None) != tuple(own.shape[2:]):
            return None
        # patches, side by side
        value = resample_patch_embed(value, list(own.shape[2:]), interpolation="bicubic", antialias=True)
    channels, wanted = value.shape[1], own.shape[1]
    if channels == wanted:
        return value
    if channels == 1:
        # a grey image, given in each channel, gives what it gave
        return value.expand(-1, wanted, -1, -1) / wanted
    if channels == 3 or (wanted == 1 and channels < 3):
        return adapt_input_conv(wanted, value)
    return None
