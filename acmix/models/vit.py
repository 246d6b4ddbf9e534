"""Vision Transformer (DeiT's sizes) and its ACmix form: one network, one flag.

Parameter names are those of timm's ViT, so its DeiT weights load into `conv_path=False` as they are; a convolution path
adds `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each block.

Shapes: B batch · T class tokens, 1 · H, W grid of patches · L = T + H·W · C channels · h, w image
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import GlobalAttention, Mixing, rate_names
from acmix.models.initialise import init_weights
from acmix.models.registry import register_variants
from acmix.models.token_block import (
    TokenBlock,
    TokenBlocks,
    as_map,
    check_pool,
    padded,
    positions,
)
from acmix.ops import pair


class VisionTransformer(nn.Module):
    """Classifies images, or gives maps of features, by attention between all patches and a class token.

    Any input of at least one pixel works: zeros fill up the last patches, and positions are interpolated. With
    global_pool="token" the last block has no convolution path: what it does to the patches would reach no class.

    Args:
        img_size: side of the images, or (h, w), that positions are learned for.
        patch_size: side of a patch in pixels.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: "token" for the class token, "avg" for the mean of the patches, "" for no pooling.
        embed_dim: C.
        depth: blocks; in `conv_stages` each is a stage of its own.
        num_heads: attention heads.
        mlp_ratio: hidden over outer width of the MLPs.
        qkv_bias: whether the shared projection has a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs and behind the attention.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        conv_path: False gives plain ViT.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: DeiT (ICML 2021); ACmix (CVPR 2022) names ViT, and never released this form: see `GlobalAttention`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        mixing.check_stages(depth)
        check_pool(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_chans, embed_dim, strict_img_size=False, dynamic_img_pad=True
        )
        self.patch_size, self.learned_grid = pair(patch_size), self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.patch_embed.num_patches, embed_dim))
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        blocks = []
        for i in range(depth):
            # of the last block only the class token is read, to which the path adds nothing
            seen = i < depth - 1 or global_pool != "token"
            mixed = mixing.at(i) if conv_path and seen else None
            attention = GlobalAttention(embed_dim, num_heads, qkv_bias=qkv_bias, mixing=mixed)
            block = TokenBlock(embed_dim, attention, mlp_ratio=mlp_ratio, drop=proj_drop_rate, drop_path=rates[i])
            blocks.append(block)
        self.blocks = TokenBlocks(blocks)
        self.feature_info = [dict(num_chs=embed_dim, reduction=patch_size, module=f"blocks.{i}") for i in range(depth)]
        # a mean of patches is normalised behind the mean, a class token before it is taken
        self.norm = nn.Identity() if global_pool == "avg" else nn.LayerNorm(embed_dim, eps=1e-6)
        self.fc_norm = nn.LayerNorm(embed_dim, eps=1e-6) if global_pool == "avg" else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.global_pool, self.num_classes = global_pool, num_classes
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_weights)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, in_chans, h, w) -> tokens (B, L, C) with their positions, and the grid (H, W)."""
        side = self.patch_size
        x = padded(x, side)
        grid = (x.shape[2] // side[0], x.shape[3] // side[1])
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], 1)  # (B, L, C)
        return tokens + positions(self.pos_embed, grid, self.learned_grid, 1), grid

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, L, C), normalised."""
        return self.norm(self.blocks.run_all(*self.embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, L, C) -> (B, num_classes), or the pooled features (B, C)."""
        if self.global_pool:
            x = x[:, 0] if self.global_pool == "token" else x[:, 1:].mean(1)
        x = self.head_drop(self.fc_norm(x))
        return x if pre_logits else self.head(x)

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
        """Gives the maps behind chosen blocks, as timm's models do.

        Args:
            x: (B, in_chans, h, w).
            indices: which blocks; the last n where one number n; all where None.
            norm: apply the last norm to each.
            stop_early: leave out the blocks that nobody asked for.
            output_fmt: "NCHW", or "NLC" for the patches as tokens.
            intermediates_only: give the list alone.

        Returns:
            The maps, and unless `intermediates_only` the last normalised tokens before them.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UsageError(f"output_fmt={output_fmt!r}; expected 'NCHW' or 'NLC'")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        maps: list[Tensor] = []
        x, grid = self.embed(x)
        for i, block in enumerate(self.blocks):
            if stop_early and i > last:
                break
            x = self.blocks.run(block, x, grid)
            if i in wanted:
                out = self.norm(x) if norm else x
                maps.append(as_map(out, grid) if output_fmt == "NCHW" else out[:, 1:])
        return maps if intermediates_only else (self.norm(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cuts off the blocks behind the last one wanted, and the norm and head that go with them."""
        wanted, last = feature_take_indices(len(self.blocks), indices)
        del self.blocks[last + 1 :]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a new classifier in place; 0 classes leave the pooled features."""
        if global_pool is not None:
            check_pool(global_pool)
            if "avg" in (global_pool, self.global_pool) and global_pool not in (self.global_pool, ""):
                raise UsageError(
                    "global_pool='avg' and 'token' need different norms; choose one when you build the model"
                )
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = self.pos_embed
        self.head = nn.Linear(self.embed_dim, num_classes).to(like) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each block's input for the backward pass and computes the rest again."""
        self.blocks.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, though they may have several dimensions."""
        return rate_names(self) | {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates."""
        return dict(
            stem=r"^cls_token|^pos_embed|^patch_embed", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]
        )


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_deit_tiny_patch16_224": dict(embed_dim=192, num_heads=3),
    "acmix_deit_small_patch16_224": dict(embed_dim=384, num_heads=6),
    "acmix_deit_base_patch16_224": dict(embed_dim=768, num_heads=12),
}

register_variants(VisionTransformer, VARIANTS, first_conv="patch_embed.proj", classifier="head", maps=3)
