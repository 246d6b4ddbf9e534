"""Pyramid Vision Transformer, version 1, and its ACmix form: one network, one flag.

timm has version 2 alone; attention is named as there (q, kv, sr, norm, proj). A convolution path adds
`attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each block.

Shapes: B batch · T class tokens, 1 in the last stage · H, W map · L = T + H·W · C channels · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import Mixing, ReductionAttention
from acmix.models.backbone import LayerPatterns
from acmix.models.blocks import Blocks, TransformerBlock, init_linear, padded
from acmix.models.registry import register_variants
from acmix.models.tokens import TokenBackbone, Tokens, check_pool, map_of, positions
from acmix.ops import pair
from acmix.ops.leaving import fresh

torch.fx.wrap("positions")


class PyramidVisionTransformer(TokenBackbone):
    """Classifies images, or gives a pyramid of features, by attention to reduced maps.

    Any input of at least one pixel works: zeros fill up the last patches, and positions are interpolated. With
    global_pool="token" the last block has no convolution path: what it does to the patches would reach no class.

    Args:
        img_size: side of the images, or (h, w), that positions are learned for.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: "token" for the class token, "avg" for the mean of the last map, "" for no pooling.
        embed_dims: channels of each stage.
        depths: blocks in each stage.
        num_heads: attention heads in each stage.
        mlp_ratios: hidden over outer width of the MLPs in each stage.
        reductions: side of the patches that stand for their pixels as keys and values, in each stage.
        qkv_bias: whether the projections of q, k and v have biases.
        attn_drop_rate: dropout of the attention's weights.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs and behind the attention.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        conv_path: False gives plain PVT.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: PVT (ICCV 2021); ACmix (CVPR 2022), table 2, whose form was never released: see `ReductionAttention`.
    """

    first_conv = "stages.0.patch_embed"
    layer_patterns = LayerPatterns(
        stem=r"^stages\.0\.(?:patch_embed|patch_norm|pos_embed)",
        stages=r"^stages\.(\d+)",
        blocks=[
            (r"^stages\.(\d+)\.(?:patch_embed|patch_norm|pos_embed|cls_token)", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ],
    )

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(in_chans, num_classes)
        tables = dict(
            embed_dims=embed_dims, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios, reductions=reductions
        )
        if len({len(table) for table in tables.values()}) > 1:
            lengths = ", ".join(f"{name} {len(table)}" for name, table in tables.items())
            raise UsageError(f"{lengths} entries; expected one entry a stage each")
        if reductions[-1] != 1:
            raise UsageError(f"reductions={tuple(reductions)}; expected 1 in the last stage, which has a class token")
        mixing.check_stages(len(depths))
        check_pool(global_pool)
        self.num_features = self.head_hidden_size = embed_dims[-1]
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        channels, stride, side = in_chans, 1, pair(img_size)
        for i, dim in enumerate(embed_dims):
            patch = 4 if i == 0 else 2
            side = (-(-side[0] // patch), -(-side[1] // patch))
            blocks = []
            for j in range(depths[i]):
                # of the last block only the class token is read, to which the path adds nothing
                seen = i < len(depths) - 1 or j < depths[i] - 1 or global_pool != "token"
                mixed = mixing.at(i) if conv_path and seen else None
                attention = ReductionAttention(dim, num_heads[i], reductions[i], qkv_bias=qkv_bias, mixing=mixed)
                attention.attn_drop.p = attn_drop_rate
                ratio = mlp_ratios[i]
                block = TransformerBlock(dim, attention, mlp_ratio=ratio, drop=proj_drop_rate, drop_path=rates[i][j])
                blocks.append(block)
            last = i == len(depths) - 1
            stages.append(Stage(channels, dim, patch, side, blocks, class_token=last and global_pool == "token"))
            channels, stride = dim, stride * patch
            self.add_step(f"stages.{i}", dim, stride)
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.make_head(global_pool, drop_rate)
        self.apply(init_linear)

    def embed(self, x: Tensor) -> Tensor:
        return x

    def all_steps(self, state: Tensor) -> Tokens:
        return self.stages(state)

    def check_pool(self, global_pool: str) -> None:
        if global_pool == "token" != self.global_pool:
            raise UsageError("this model was built without a class token; build it with global_pool='token'")


class Stage(nn.Module):
    """Patches of a map as tokens, with learned positions, and blocks on them.

    Args:
        channels: of the map that comes in.
        dim: C, channels of the tokens.
        patch: side of a patch.
        grid: (H, W) that positions are learned for.
        blocks: what follows.
        class_token: whether one stands before the patches.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        patch: int,
        grid: tuple[int, int],
        blocks: list[TransformerBlock],
        *,
        class_token: bool,
    ) -> None:
        super().__init__()
        self.patch, self.learned_grid, self.first = patch, grid, int(class_token)
        self.patch_embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.patch_norm = nn.LayerNorm(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.first + grid[0] * grid[1], dim))
        for learned in (self.cls_token, self.pos_embed):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        self.blocks = Blocks(*blocks)

    def forward(self, x: Tensor | Tokens) -> Tokens:
        """(B, channels, h, w), or its tokens -> (B, L, C), and the grid (ceil(h/patch), ceil(w/patch))."""
        x = map_of(x) if isinstance(x, Tokens) else x
        x = self.patch_embed(padded(x, self.patch))  # (B, C, H, W)
        grid = (x.shape[2], x.shape[3])  # pyright: ignore[reportAttributeAccessIssue]
        tokens = self.patch_norm(fresh(x.flatten(2).transpose(1, 2)))  # (B, H·W, C)  # pyright: ignore[reportAttributeAccessIssue]
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)  # (B, L, C)
        tokens = tokens + positions(self.pos_embed, grid, self.learned_grid, self.first)
        return Tokens(self.blocks(tokens, grid), grid)


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_pvt_tiny": dict(depths=(2, 2, 2, 2)),
    "acmix_pvt_small": dict(depths=(3, 4, 6, 3)),
    "acmix_pvt_medium": dict(depths=(3, 4, 18, 3)),
    "acmix_pvt_large": dict(depths=(3, 8, 27, 3)),
}

register_variants(PyramidVisionTransformer, VARIANTS)
