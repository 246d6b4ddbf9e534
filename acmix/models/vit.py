"""Vision Transformer (DeiT's sizes) and its ACmix form: one network, one flag.

Parameter names are those of timm's ViT, so its DeiT weights load into `conv_path=False` as they are; a convolution path
adds `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each block.

Shapes: B batch · T class tokens, 1 · H, W grid of patches · L = T + H·W · C channels · h, w image
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import GlobalAttention, Mixing
from acmix.models.backbone import LayerPatterns
from acmix.models.blocks import Blocks, TransformerBlock, init_linear, padded
from acmix.models.registry import register_variants
from acmix.models.tokens import TokenBackbone, Tokens, check_pool, positions
from acmix.ops import pair

torch.fx.wrap("positions")

# patterns of names: a block is a stage of its own
BLOCKS = [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]


class VisionTransformer(TokenBackbone):
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
        attn_drop_rate: dropout of the attention's weights.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        conv_path: False gives plain ViT.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: DeiT (ICML 2021); ACmix (CVPR 2022) names ViT, and never released this form: see `GlobalAttention`.
    """

    first_conv = "patch_embed.proj"
    output_formats = ("NCHW", "NLC")
    is_sequence = False
    # tokens before the patches
    num_prefix_tokens, has_class_token = 1, True
    head_is_cut = False
    outside_mean = 1
    layer_patterns = LayerPatterns(stem=r"^cls_token|^pos_embed|^patch_embed", stages=BLOCKS, blocks=BLOCKS)

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
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(in_chans, num_classes)
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
            attention.attn_drop.p = attn_drop_rate
            block = TransformerBlock(embed_dim, attention, mlp_ratio=mlp_ratio, drop=proj_drop_rate, drop_path=rates[i])
            blocks.append(block)
            self.add_step(f"blocks.{i}", embed_dim, patch_size)
        self.blocks = Blocks(*blocks)
        # a mean of patches is normalised behind the mean, a class token before it is taken
        self.norm = nn.Identity() if global_pool == "avg" else nn.LayerNorm(embed_dim, eps=1e-6)
        self.fc_norm = nn.LayerNorm(embed_dim, eps=1e-6) if global_pool == "avg" else nn.Identity()
        self.make_head(global_pool, drop_rate)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_linear)

    def embed(self, x: Tensor) -> Tokens:
        """(B, in_chans, h, w) -> tokens (B, L, C) with their positions, and the grid (H, W)."""
        side = self.patch_size
        x = padded(x, side)
        grid = (x.shape[2] // side[0], x.shape[3] // side[1])
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], 1)  # (B, L, C)
        return Tokens(tokens + positions(self.pos_embed, grid, self.learned_grid, 1), grid)

    def step(self, name: str, state: Tokens) -> Tokens:
        return Tokens(self.blocks.run(self.get_submodule(name), *state), state.grid)

    def all_steps(self, state: Tokens) -> Tokens:
        return Tokens(self.blocks(*state), state.grid)

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """As every network here, with one argument more.

        Args:
            return_prefix_tokens: give each map with the class token beside it, (B, 1, C).
        """
        self.check_output_fmt(output_fmt)
        last, states = self.states(x, indices, norm=norm, stop_early=stop_early)
        maps: list[Any] = [self.as_map(state, output_fmt) for state in states]
        if return_prefix_tokens:
            maps = [(each, state.x[:, : self.num_prefix_tokens]) for each, state in zip(maps, states, strict=True)]
        return maps if intermediates_only else (self.features(last), maps)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Any]:
        """The patches (B, H·W, C) behind the last n blocks, or behind those of these numbers; maps with `reshape`."""
        given = dict(return_prefix_tokens=return_prefix_tokens, norm=norm, output_fmt="NCHW" if reshape else "NLC")
        return self.forward_intermediates(x, n, intermediates_only=True, **given)  # type: ignore[arg-type, return-value]

    def pooled(self, x: Tensor) -> Tensor:
        return self.fc_norm(super().pooled(x))

    def check_pool(self, global_pool: str) -> None:
        if self.head_is_cut:
            return
        if "avg" in (global_pool, self.global_pool) and global_pool not in (self.global_pool, ""):
            raise UsageError("global_pool='avg' and 'token' need different norms; choose one when you build the model")

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        # with it goes the norm that is for one way of pooling
        self.head_is_cut = self.head_is_cut or prune_head
        wanted = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.fc_norm = nn.Identity()
        return wanted


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_deit_tiny_patch16_224": dict(embed_dim=192, num_heads=3),
    "acmix_deit_small_patch16_224": dict(embed_dim=384, num_heads=6),
    "acmix_deit_base_patch16_224": dict(embed_dim=768, num_heads=12),
}

register_variants(VisionTransformer, VARIANTS, maps=3)
