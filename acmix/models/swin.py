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
from timm.layers import ClassifierHead, PatchEmbed, calculate_drop_path_rates
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import Mixing, WindowAttention
from acmix.models.backbone import Backbone, LayerPatterns
from acmix.models.blocks import Blocks, TransformerBlock, init_linear, missing, padded
from acmix.models.registry import register_variants
from acmix.models.windows import refit, scaled_windows, sides_of_stages, windows_from_ratio, windows_of
from acmix.ops import pair
from acmix.ops.leaving import compact, unflatten

# what depends on sizes is one node each of a graph that torch.fx traces
torch.fx.wrap("shifts")
torch.fx.wrap("check_size")


class SwinTransformer(Backbone):
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
        window_size: side of the windows in pixels of the map, or (rows, columns); or one of these for each stage.
        always_partition: let windows be larger than the map, and shift them there too.
        strict_img_size: refuse images of another size than `img_size`.
        dynamic_img_size: take any size, even with `strict_img_size`; timm's other name for it.
        mlp_ratio: hidden over outer width of the MLPs.
        qkv_bias: whether the shared projection has a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs and after the attention.
        attn_drop_rate: dropout of the attention's weights.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        conv_path: False gives plain Swin.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: Swin Transformer (ICCV 2021); ACmix (CVPR 2022).
    """

    first_conv, classifier = "patch_embed.proj", "head.fc"
    strict_img_size = False
    output_fmt = "NHWC"
    output_formats = ("NCHW", "NHWC")
    not_decayed = ("relative_position_bias_table",)
    layer_patterns = LayerPatterns(
        stem=r"^patch_embed",
        stages=r"^layers\.(\d+)",
        blocks=[
            (r"^layers\.(\d+)\.downsample", (0,)),
            (r"^layers\.(\d+)\.\w+\.(\d+)", None),
            (r"^norm", (99999,)),
        ],
    )

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
        window_size: int | Sequence[int] | Sequence[int | tuple[int, int]] = 7,
        always_partition: bool = False,
        strict_img_size: bool = False,
        dynamic_img_size: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(in_chans, num_classes)
        mixing.check_stages(len(depths))
        if len(depths) != len(num_heads):
            raise UsageError(f"depths={tuple(depths)} and num_heads={tuple(num_heads)}; expected one entry a stage")
        self.global_pool, self.patch_size = global_pool, pair(patch_size)
        self.strict_img_size = strict_img_size and not dynamic_img_size
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
        # what `set_input_size` keeps the proportions of
        self.windows, self.grid = windows_of(window_size, len(depths)), self.grid_of(pair(img_size))
        sides = sides_of_stages(self.grid, len(depths))
        stages = []
        for i, depth in enumerate(depths):
            dim = embed_dim * 2**i
            downsample = PatchMerging(dim // 2) if i else nn.Identity()
            blocks = []
            for j in range(depth):
                block = Block(
                    dim,
                    num_heads[i],
                    self.windows[i],
                    shifted=j % 2 == 1,
                    side=sides[i],
                    always_partition=always_partition,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    proj_drop=proj_drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=rates[i][j],
                    mixing=mixing.at(i) if conv_path else None,
                )
                blocks.append(block)
            stages.append(Stage(downsample, blocks))
            self.add_step(f"layers.{i}", dim, max(self.patch_size) * 2**i)
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt="NHWC"
        )
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()
        self.apply(init_linear)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the first stage's map for images of (h, w)."""
        (h, w), (rows, columns) = size, self.patch_size
        return -(-h // rows), -(-w // columns)  # pyright: ignore[reportOperatorIssue]

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, ceil(h/patch), ceil(w/patch), C); zeros fill the last patches."""
        if self.strict_img_size:
            check_size(x, self.patch_embed.img_size)  # pyright: ignore[reportArgumentType]
        return self.patch_embed(padded(x, self.patch_size))  # pyright: ignore[reportArgumentType]

    def all_steps(self, state: Tensor) -> Tensor:
        return self.layers(state)

    def normed(self, state: Tensor) -> Tensor:
        return self.norm(state)

    def as_map(self, state: Tensor, output_fmt: str) -> Tensor:
        return compact(state.permute(0, 3, 1, 2)) if output_fmt == "NCHW" else state

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the pooled features (B, C)."""
        return self.head(x, pre_logits=pre_logits)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes, self.head.in_features = num_classes, self.num_features
        self.head.reset(num_classes, pool_type=global_pool)
        self.global_pool = self.head.global_pool.pool_type
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()
        self.fitted(self.head.global_pool, self.head.fc)

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        window_size: int | Sequence[int] | Sequence[int | tuple[int, int]] | None = None,
        window_ratio: int | Sequence[int] | None = None,
        always_partition: bool | None = None,
    ) -> None:
        """Fits windows to another size of images; tables of positions and patches are interpolated as timm does it.

        Args:
            img_size: side of the images, or (h, w); as before where None, as all that follows.
            patch_size: side of a patch, or (rows, columns).
            window_size: as when the model is built. Without it, windows keep their part of the map.
            window_ratio: the first map's sides over those of the windows, for all stages or for each.
            always_partition: as when the model is built.

        Raises:
            UsageError: windows that do not fit the number of stages; the model is as before.
        """
        stages: Any = [self.get_submodule(name) for name in self.steps]
        windows = None if window_size is None else windows_of(window_size, len(stages))
        if windows is None and window_ratio is not None:
            windows_from_ratio(window_ratio, (1, 1), len(stages))  # refuses what is wrong before anything changes
        size = self.patch_embed.img_size if img_size is None else pair(img_size)
        self.patch_embed.set_input_size(size, None if patch_size is None else pair(patch_size))
        self.patch_size = self.patch_embed.patch_size
        grid = self.grid_of(size)  # pyright: ignore[reportArgumentType]
        if windows is None and window_ratio is not None:
            windows = windows_from_ratio(window_ratio, grid, len(stages))
        fitted = scaled_windows(self.windows, self.grid, grid) if windows is None else windows
        if windows is not None:
            self.windows, self.grid = windows, grid
        for stage, window, side in zip(stages, fitted, sides_of_stages(grid, len(stages)), strict=True):
            for block in stage.blocks:
                block.fit(window, side, always_partition)
        for i, info in enumerate(self.feature_info):
            info["reduction"] = max(self.patch_size) * 2**i

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        wanted = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.windows = self.windows[: len(self.steps)]
        return wanted


class Stage(nn.Module):
    """Blocks on one map, behind the merging that makes it."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = Blocks(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, or (B, ceil(H/2), ceil(W/2), 2·C) where it merges first."""
        return self.blocks(self.downsample(x))


class Block(TransformerBlock):
    """x + attention(norm(x)), then x + mlp(norm(x)), with attention within windows, shifted by half of one or not.

    Args:
        dim: C.
        heads: attention heads.
        window: (rows, columns) of a window.
        shifted: whether windows are shifted by half of one.
        side: (H, W) of the map, beyond which windows do not go; None for no limit.
        always_partition: let windows be larger than the map, and shift them there too.
        mlp_ratio, qkv_bias, proj_drop, attn_drop, drop_path, mixing: see `SwinTransformer`.
    """

    # also of blocks that were pickled before there was a choice
    always_partition = False

    def __init__(
        self,
        dim: int,
        heads: int,
        window: tuple[int, int],
        *,
        shifted: bool,
        side: tuple[int, int] | None = None,
        always_partition: bool = False,
        mlp_ratio: float,
        qkv_bias: bool,
        proj_drop: float,
        attn_drop: float = 0.0,
        drop_path: float,
        mixing: Mixing | None,
    ) -> None:
        window = window if side is None or always_partition else smaller(window, side)
        attention = WindowAttention(dim, heads, window, qkv_bias=qkv_bias, attn_drop=attn_drop, mixing=mixing)
        super().__init__(dim, attention, mlp_ratio=mlp_ratio, drop=proj_drop, drop_path=drop_path, eps=1e-5)
        self.shifted, self.always_partition = shifted, always_partition
        self.window = window
        self.shift = tuple(side // 2 if shifted else 0 for side in window)

    def fit(self, window: tuple[int, int], side: tuple[int, int], always_partition: bool | None = None) -> None:
        """Takes other windows for maps of another size."""
        if always_partition is not None:
            self.always_partition = always_partition
        self.window = window if self.always_partition else smaller(window, side)
        self.shift = tuple(side // 2 if self.shifted else 0 for side in self.window)
        refit(self.attn, self.window)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        shift = self.shift if self.always_partition else shifts(x, self.window, self.shift)  # pyright: ignore[reportArgumentType]
        return super().forward(x, shift, *more)


def smaller(window: tuple[int, int], side: tuple[int, int]) -> tuple[int, int]:
    """A window no larger than a map."""
    return min(window[0], side[0]), min(window[1], side[1])


def shifts(x: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> tuple[Any, Any]:
    """The shift along each side of a map (B, H, W, C)."""
    rows, columns = (
        shift_of(length, side, step) for length, side, step in zip(x.shape[1:3], window, shift, strict=True)
    )
    return rows, columns


def check_size(x: Tensor, size: tuple[int, int]) -> None:
    """Refuses images (B, in_chans, h, w) of another size."""
    if tuple(x.shape[2:]) != size:
        raise UsageError(
            f"images of {tuple(x.shape[2:])}; this model was built with strict_img_size for {size}: "
            "call set_input_size, or build it without"
        )


def shift_of(length: Any, window: int, step: int) -> Any:
    """The shift along a side of a map: none where one window covers it."""
    # No comparison, which would fix a size that export leaves open. In a trace, a size is a tensor.
    if isinstance(length, Tensor):
        return step * (length - window).clamp(0, 1)
    # torch.compile of PyTorch 2.9 knows Python's min and max of an open size, and not torch's of a number.
    least, most = (min, max) if torch.compiler.is_dynamo_compiling() else (torch.sym_min, torch.sym_max)
    return least(step, step * most(length - window, 0))


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
        x = unflatten(unflatten(x, 2, (-1, 2)), 1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4·C)
        return self.reduction(self.norm(x))


VARIANTS: dict[str, dict[str, Any]] = {
    f"acmix_swin_{size}_patch4_window{window}_{img_size}": dict(img_size=img_size, window_size=window, **shape)
    for window, img_size in ((7, 224), (12, 384))
    for size, shape in {
        "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        "small": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        "base": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    }.items()
}

register_variants(SwinTransformer, VARIANTS)
