"""Swin Transformer and its ACmix form: one network, one flag.

Parameter names are those of timm's Swin, so its state dicts load into `conv_path=False` as they are; a convolution
path adds `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each block. Masks and index tables follow
from the sizes and are never saved.

Shapes: B batch · H, W map · C channels · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead, DropPath, Mlp, PatchEmbed, calculate_drop_path_rates
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import Mixing, WindowAttention, rate_names
from acmix.models.initialise import init_weights
from acmix.models.registry import register_variants
from acmix.ops import pair


class SwinTransformer(nn.Module):
    """Classifies images, or gives a pyramid of features, by attention within shifted windows.

    Any input of at least one patch works: what does not divide is padded, and padding is never attended to.

    Args:
        img_size: side of the images, or (h, w), that windows are fitted to: a window is never larger than its stage's
            map at this size. Other sizes can be fed all the same.
        patch_size: side of a patch in pixels.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: how the map is pooled, "avg" or "".
        embed_dim: channels of the first stage; each next one has twice as many.
        depths: blocks in each stage.
        num_heads: attention heads in each stage.
        window_size: side of the windows in pixels of the map, or (rows, columns).
        mlp_ratio: hidden over outer width of the MLPs.
        qkv_bias: whether the shared projection has a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs and after the attention.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        conv_path: False gives plain Swin.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: Swin Transformer (ICCV 2021); ACmix (CVPR 2022).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | tuple[int, int] = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        mixing.check_stages(len(depths))
        if len(depths) != len(num_heads):
            raise UsageError(f"depths={tuple(depths)} and num_heads={tuple(num_heads)}; expected one entry a stage")
        self.num_classes, self.global_pool, self.patch_size = num_classes, global_pool, pair(patch_size)
        self.num_features = self.head_hidden_size = embed_dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            strict_img_size=False,
            dynamic_img_pad=True,
        )
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        side = [-(-length // patch_size) for length in pair(img_size)]
        window = pair(window_size)
        stages, self.feature_info = [], []
        for i, depth in enumerate(depths):
            dim = embed_dim * 2**i
            stages.append(
                Stage(
                    dim,
                    depth,
                    num_heads[i],
                    (min(window[0], side[0]), min(window[1], side[1])),
                    downsample=i > 0,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    proj_drop=proj_drop_rate,
                    drop_path=rates[i],
                    mixing=mixing.at(i) if conv_path else None,
                )
            )
            self.feature_info.append(dict(num_chs=dim, reduction=patch_size * 2**i, module=f"layers.{i}"))
            side = [-(-s // 2) for s in side]
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt="NHWC"
        )
        self.apply(init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, H, W, C), normalised."""
        return self.norm(self.layers(self.embed(x)))

    def embed(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, ceil(h/patch), ceil(w/patch), C); zeros fill the last patches."""
        rows, columns = self.patch_size
        return self.patch_embed(F.pad(x, (0, missing(x.shape[3], columns), 0, missing(x.shape[2], rows))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the pooled features (B, C)."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Gives the maps after chosen stages, as timm's models do.

        Args:
            x: (B, in_chans, h, w).
            indices: which stages; the last n where one number n; all where None.
            norm: apply the last norm to the last map.
            stop_early: leave out the stages that nobody asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: give the list alone.

        Returns:
            The maps, and unless `intermediates_only` the last normalised one before them.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise UsageError(f"output_fmt={output_fmt!r}; expected 'NCHW' or 'NHWC'")
        wanted, last = feature_take_indices(len(self.layers), indices)
        maps: list[Tensor] = []
        x = self.embed(x)
        for i, stage in enumerate(self.layers):
            if stop_early and i > last:
                break
            x = stage(x)
            if i in wanted:
                out = self.norm(x) if norm and i == len(self.layers) - 1 else x
                maps.append(out.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else out)
        return maps if intermediates_only else (self.norm(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cuts off the stages behind the last one wanted, and the norm and head that go with them."""
        wanted, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a new classifier in place; 0 classes leave the pooled features."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each block's input for the backward pass and computes the rest again."""
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, though they may have several dimensions."""
        names = (name for name, _ in self.named_parameters())
        return rate_names(self) | {name for name in names if name.endswith("relative_position_bias_table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates."""
        layers = [
            (r"^layers\.(\d+)\.downsample", (0,)),
            (r"^layers\.(\d+)\.\w+\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return dict(stem=r"^patch_embed", blocks=r"^layers\.(\d+)" if coarse else layers)


class Stage(nn.Module):
    """Blocks on one map, behind the merging that makes it.

    Args:
        dim: channels of its map.
        depth: blocks.
        heads: attention heads.
        window: (rows, columns) of the windows.
        downsample: merge 2×2 patches of dim/2 channels first.
        mlp_ratio, qkv_bias, proj_drop: as in `SwinTransformer`.
        mixing: of the two paths; None for attention alone.
        drop_path: chance to skip, for each block.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        window: tuple[int, int],
        *,
        downsample: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        drop_path: Sequence[float],
        mixing: Mixing | None,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = PatchMerging(dim // 2) if downsample else nn.Identity()
        self.blocks = nn.Sequential(
            *[
                Block(
                    dim,
                    heads,
                    window,
                    shifted=i % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    proj_drop=proj_drop,
                    drop_path=drop_path[i],
                    mixing=mixing,
                )
                for i in range(depth)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, or (B, ceil(H/2), ceil(W/2), 2·C) where it merges first."""
        x = self.downsample(x)
        for block in self.blocks:
            x = checkpoint(block, x) if self.grad_checkpointing and not torch.jit.is_scripting() else block(x)
        return x


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: tuple[int, int],
        *,
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        drop_path: float,
        mixing: Mixing | None,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = tuple(side // 2 if shifted else 0 for side in window)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, qkv_bias=qkv_bias, mixing=mixing)
        self.drop = nn.Dropout(proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # A side that one window covers is not shifted. No comparison, which would fix a size that export leaves open.
        rows, columns = (
            torch.sym_min(step, step * torch.sym_max(length - side, 0))
            for length, side, step in zip(x.shape[1:3], self.window, self.shift, strict=True)
        )
        x = x + self.drop_path(self.drop(self.attn(self.norm1(x), (rows, columns))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves a map and doubles its channels: four neighbours side by side, a norm, a projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2·C); an odd side gets a row of zeros."""
        x = F.pad(x, (0, 0, 0, missing(x.shape[2], 2), 0, missing(x.shape[1], 2)))
        # neighbours in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4·C)
        return self.reduction(self.norm(x))


def missing(length: int, step: int) -> int:
    """How much `length` lacks to a multiple of `step`."""
    # not `-length % step`: a compiler simplifies this form where the length is symbolic, ten times as fast in the end
    return (length + step - 1) // step * step - length


VARIANTS: dict[str, dict[str, Any]] = {
    f"acmix_swin_{size}_patch4_window{window}_{img_size}": dict(img_size=img_size, window_size=window, **shape)
    for window, img_size in ((7, 224), (12, 384))
    for size, shape in {
        "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        "small": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        "base": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    }.items()
}

register_variants(SwinTransformer, VARIANTS, first_conv="patch_embed.proj", classifier="head.fc")
