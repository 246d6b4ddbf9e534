"""The released names of a Swin's weights, beside ours, and the masks and index tables that a released file also holds.

To support one more key, add its row to the table it belongs to.
"""

# C channels of a stage, N heads, M hidden channels of the feed-forward layer, T entries of the relative position table,
# E channels of the first stage, P patch side, I input channels, F channels of the last stage, K classes,
# w side of a window, L = w*w its pixels, nW windows of a map.

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from acmix.errors import UsageError
from acmix.models.swin import VARIANTS
from acmix.released.weight_table import Pair, Row, check_name, fill, same

MERGE = "merged at the end of stage i there, at the start of stage i+1 in timm and here"
HEAD = "timm's name for the classifier"
RATE = "named for what it weighs"
PATH = "belongs to the convolution path"

SWIN_START = (
    same("patch_embed.proj.weight", "E I P P"),
    same("patch_embed.proj.bias", "E"),
    same("patch_embed.norm.weight", "E"),
    same("patch_embed.norm.bias", "E"),
)
# names after `layers.{stage}.blocks.{block}.`
SWIN_BLOCK = (
    Row("attn_mask", None, "nW L L", reason="follows from the sides of image and window", when="odd"),
    same("norm1.weight", "C"),
    same("norm1.bias", "C"),
    same("attn.relative_position_bias_table", "T N"),
    Row("attn.rate1", "attn.rate_attention", "1", reason=RATE, when="conv_path"),
    Row("attn.rate2", "attn.rate_conv", "1", reason=RATE, when="conv_path"),
    Row("attn.relative_position_index", None, "L L", reason="follows from the side of a window"),
    same("attn.qkv.weight", "3C C"),
    same("attn.qkv.bias", "3C", when="qkv_bias"),
    same("attn.proj.weight", "C C"),
    same("attn.proj.bias", "C"),
    Row("attn.fc.weight", "attn.conv_path.fc_weight", "9 3N 1 1", "9 3N", "a matrix, not a convolution", "conv_path"),
    Row("attn.fc.bias", "attn.conv_path.fc_bias", "9", reason=PATH, when="conv_path"),
    Row("attn.dep_conv.weight", "attn.conv_path.kernels", "C 9 3 3", reason=PATH, when="conv_path"),
    same("norm2.weight", "C"),
    same("norm2.bias", "C"),
    same("mlp.fc1.weight", "M C"),
    same("mlp.fc1.bias", "M"),
    same("mlp.fc2.weight", "C M"),
    same("mlp.fc2.bias", "C"),
)
SWIN_MERGE = (
    Row("layers.{i}.downsample.reduction.weight", "layers.{next}.downsample.reduction.weight", "2C 4C", reason=MERGE),
    Row("layers.{i}.downsample.norm.weight", "layers.{next}.downsample.norm.weight", "4C", reason=MERGE),
    Row("layers.{i}.downsample.norm.bias", "layers.{next}.downsample.norm.bias", "4C", reason=MERGE),
)
SWIN_END = (
    same("norm.weight", "F"),
    same("norm.bias", "F"),
    Row("head.weight", "head.fc.weight", "K F", reason=HEAD),
    Row("head.bias", "head.fc.bias", "K", reason=HEAD),
)


# what tells one variant from another
IDENTITY = ("embed_dim", "depths", "num_heads", "window_size")


@dataclass(frozen=True)
class SwinLayout:
    """The sizes of one Swin, read off its weights, and the table's rows written out for them."""

    embed_dim: int
    patch_size: int
    in_chans: int
    num_classes: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_hidden: tuple[int, ...]
    # a stage's window is never larger than its map
    windows: tuple[int, ...]
    qkv_bias: bool
    conv_path: bool
    # what the variant is named for
    img_size: int = 224

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], name: str = "acmix_swin_tiny_patch4_window7_224") -> SwinLayout:
        """Reads the sizes; what cannot be read is as `name` has it, so that the missing keys can be listed."""
        named = VARIANTS[name]

        def size(key: str, dim: int, otherwise: int) -> int:
            tensor = weights.get(key)
            return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else otherwise

        blocks = {m.groups() for key in weights if (m := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key))}
        stages = range(len({stage for stage, _ in blocks}))
        depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in stages) or named["depths"]
        embed_dim = size("patch_embed.proj.weight", 0, size("patch_embed.norm.weight", 0, named["embed_dim"]))
        heads, hidden, windows = [], [], []
        for i in range(len(depths)):
            table = f"layers.{i}.blocks.0.attn.relative_position_bias_table"
            heads.append(size(table, 1, named["num_heads"][min(i, len(named["num_heads"]) - 1)]))
            hidden.append(size(f"layers.{i}.blocks.0.mlp.fc1.weight", 0, 4 * embed_dim * 2**i))
            windows.append((math.isqrt(size(table, 0, (2 * named["window_size"] - 1) ** 2)) + 1) // 2)
        path_keys = tuple(
            key for row in SWIN_BLOCK if row.when == "conv_path" for key in (row.official, row.ours) if key
        )
        head = "head.weight" if "head.weight" in weights else "head.fc.weight"
        return cls(
            embed_dim=embed_dim,
            patch_size=size("patch_embed.proj.weight", 3, 4),
            in_chans=size("patch_embed.proj.weight", 1, 3),
            num_classes=size(head, 0, 1000),
            depths=depths,
            num_heads=tuple(heads),
            mlp_hidden=tuple(hidden),
            windows=tuple(windows),
            qkv_bias=not blocks or any(key.endswith("attn.qkv.bias") for key in weights),
            conv_path=not blocks or any(key.endswith(path_keys) for key in weights),
            img_size=named["img_size"],
        )

    def settings(self) -> dict[str, Any]:
        """The sizes as arguments of the model's constructor."""
        return {
            "embed_dim": self.embed_dim,
            "depths": self.depths,
            "num_heads": self.num_heads,
            "window_size": max(self.windows),
            "mlp_ratio": self.mlp_hidden[0] / self.embed_dim,
            "patch_size": self.patch_size,
            "qkv_bias": self.qkv_bias,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "conv_path": self.conv_path,
        }

    def masked_size(self, weights: Mapping[str, Tensor]) -> int | None:
        """The side of the (square) images that the saved masks were made for; None without a mask."""
        for i, window in enumerate(self.windows):
            mask = weights.get(f"layers.{i}.blocks.1.attn_mask")
            if mask is not None and mask.ndim == 3:
                return math.isqrt(mask.shape[0]) * window * self.patch_size * 2**i
        return None

    def pairs(self) -> Iterator[Pair]:
        """Every tensor under both names, in the released order."""
        yield from self._fill(SWIN_START, 0)
        last = len(self.depths) - 1
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                flags = {"": True, "odd": j % 2 == 1, "qkv_bias": self.qkv_bias, "conv_path": self.conv_path}
                rows = (row for row in SWIN_BLOCK if flags[row.when])
                yield from self._fill(rows, i, prefix=f"layers.{i}.blocks.{j}.")
            if i < last:
                yield from self._fill(SWIN_MERGE, i)
        yield from self._fill(SWIN_END, last)

    def _fill(self, rows: Iterable[Row], stage: int, prefix: str = "") -> Iterator[Pair]:
        stages = {"i": stage, "next": stage + 1}
        dim, heads, window = self.embed_dim * 2**stage, self.num_heads[stage], self.windows[stage]
        numbers = {"C": dim, "2C": 2 * dim, "3C": 3 * dim, "4C": 4 * dim, "N": heads, "3N": 3 * heads, "F": dim}
        numbers |= {"M": self.mlp_hidden[stage], "T": (2 * window - 1) ** 2, "L": window**2, "nW": -1}
        numbers |= {"E": self.embed_dim, "P": self.patch_size, "I": self.in_chans, "K": self.num_classes}
        named = (
            replace(row, official=row.official.format(**stages), ours=row.ours and row.ours.format(**stages))
            for row in rows
        )
        yield from fill(named, numbers, prefix)

    def tables(self, img_size: int | tuple[int, int] | None) -> dict[str, Tensor]:
        """The index tables and masks that the released code saves, made for images of that size."""
        img_size = img_size or self.img_size
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        result = {}
        for i, (depth, window) in enumerate(zip(self.depths, self.windows, strict=True)):
            scale = self.patch_size * 2**i
            rows, columns = height // scale, width // scale
            fits = height % scale == 0 and width % scale == 0 and min(rows, columns) > 0
            if not fits or window != min(max(self.windows), rows, columns) or rows % window or columns % window:
                raise UsageError(
                    f"img_size {height}x{width} gives stage {i} a map of {rows}x{columns}, which the released layout "
                    f"cannot cut into the weights' windows of {window}x{window}; give to_official another img_size"
                )
            for j in range(depth):
                block = f"layers.{i}.blocks.{j}"
                result[f"{block}.attn.relative_position_index"] = relative_position_index(window)
                # the released rule: a map no larger than the configured window is not shifted
                if j % 2 == 1 and min(rows, columns) > max(self.windows):
                    result[f"{block}.attn_mask"] = shift_mask(rows, columns, window, window // 2)
        return result


def read_swin(weights: Mapping[str, Tensor], name: str) -> SwinLayout:
    """Reads the sizes of weights that are said to be `name`'s, and refuses those of another variant."""
    check_name(name, VARIANTS)
    layout = SwinLayout.of(weights, name)
    found = layout.settings()
    sizes = {known: [settings[key] for key in IDENTITY] for known, settings in VARIANTS.items()}
    own, here = sizes[name], [found[key] for key in IDENTITY]
    other = next((known for known, theirs in sizes.items() if theirs == here and theirs != own), None)
    if other or (here[0] == own[0] and here[1] != own[1]):
        say = "{0} channels, depths {1}, heads {2}, windows of {3}".format
        hint = f"give the name {other}" if other else "give the name that the weights were made for"
        raise UsageError(f"the weights are not {name}'s: {say(*here)}, where {say(*own)} were expected; {hint}")
    return layout


def relative_position_index(window: int) -> Tensor:
    """For every pair of pixels of a window, the row of the relative position table: (L, L), int64."""
    side = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))  # (L,) each
    down, right = y[:, None] - y[None, :], x[:, None] - x[None, :]  # (L, L) each
    return (down + window - 1) * (2 * window - 1) + right + window - 1


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """What is added to the logits of a rolled map: -100 between pixels that were no neighbours, else 0: (nW, L, L)."""

    def band(length: int) -> Tensor:
        at = torch.arange(length)
        return (at >= length - window).long() + (at >= length - shift)  # 0, 1 or 2

    region = 3 * band(height)[:, None] + band(width)[None, :]  # (H, W)
    tiles = region.reshape(height // window, window, width // window, window)
    tiles = tiles.transpose(1, 2).reshape(-1, window * window)  # (nW, L)
    return (tiles[:, :, None] != tiles[:, None, :]).float() * -100.0 + 0.0
