"""timm's attentions of ViT and PVT v2 with a convolution path added: their parameters under their names, and ours.

Shapes: B batch · T tokens without a place · H, W grid · L = T + H·W · N heads · D channels a head · C = N·D
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.mixing import Mixed, Mixing, with_conv


class UpgradedAttention(Mixed):
    """timm's `Attention`, mixed with a convolution path on the grid of patches.

    The path reads q and k as they are projected, before any norm of theirs.

    Args:
        attention: whose modules are taken over.
        grid: (H, W), the patches at the end of the tokens.
        mixing: of the two paths.
    """

    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    norm: nn.Module
    proj_drop: nn.Module

    def __init__(self, attention: Any, grid: tuple[int, int], mixing: Mixing) -> None:
        super().__init__(mixing)
        self.num_heads, self.head_dim, self.grid = attention.num_heads, attention.head_dim, grid
        for name in ("qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"):
            setattr(self, name, getattr(attention, name))
        self.add_path(mixing, self.num_heads, self.head_dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, T + H·W, C) -> the same."""
        rate_attention, rate_conv = self.rates()
        first = x.shape[1] - self.grid[0] * self.grid[1]
        if first < 0:
            raise UsageError(
                f"{x.shape[1]} tokens hold no grid of {self.grid} patches; give images of the size the model was made "
                "for, or make it with another img_size"
            )
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))  # (B, L, 3, N, D)
        assert self.conv_path is not None
        conv = self.conv_path(qkv[:, first:].unflatten(1, self.grid).flatten(3, 4), rate=rate_conv)  # (B, H, W, C)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, N, L, D) each
        dropped = self.attn_drop.p if self.training else 0.0
        q, k = self.q_norm(q), self.k_norm(k)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropped, is_causal=is_causal)
        out = self.project(self.norm(out.transpose(1, 2).flatten(2)), rate_attention)
        return self.proj_drop(with_conv(out, conv))


class UpgradedReductionAttention(Mixed):
    """PVT v2's attention, mixed with a convolution path at full resolution.

    k and v of the reduced map are brought back to H×W for it: each pixel takes those of the nearest.

    Args:
        attention: whose modules are taken over.
        mixing: of the two paths.
    """

    q: nn.Linear
    kv: nn.Linear
    attn_drop: nn.Dropout
    proj_drop: nn.Module

    def __init__(self, attention: Any, mixing: Mixing) -> None:
        super().__init__(mixing)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        for name in ("q", "kv", "attn_drop", "proj", "proj_drop"):
            setattr(self, name, getattr(attention, name))
        # what reduces the map: pool, sr, norm and act in turn, as far as there are such
        self.pool, self.sr, self.norm, self.act = (
            getattr(attention, name) or nn.Identity() for name in ("pool", "sr", "norm", "act")
        )
        self.add_path(mixing, self.num_heads, self.head_dim)

    def forward(self, x: Tensor, feat_size: tuple[int, int]) -> Tensor:
        """(B, H·W, C) -> the same, for a map of `feat_size` = (H, W)."""
        rate_attention, rate_conv = self.rates()
        height, width = feat_size
        image = x.transpose(1, 2).unflatten(2, (height, width))  # (B, C, H, W)
        reduced = self.sr(self.pool(image))  # (B, C, h, w)
        small = reduced.shape[2:]
        kv = self.kv(self.act(self.norm(reduced.flatten(2).transpose(1, 2))))  # (B, h·w, 2·C)
        q = self.q(x).unflatten(2, (self.num_heads, self.head_dim))  # (B, H·W, N, D)

        large = F.interpolate(kv.transpose(1, 2).unflatten(2, small), size=(height, width), mode="nearest")
        large = large.permute(0, 2, 3, 1).unflatten(3, (2 * self.num_heads, self.head_dim))  # (B, H, W, 2·N, D)
        assert self.conv_path is not None
        conv = self.conv_path(torch.cat([q.unflatten(1, (height, width)), large], 3), rate=rate_conv)  # (B, H, W, C)

        k, v = kv.unflatten(2, (2 * self.num_heads, self.head_dim)).transpose(1, 2).split(self.num_heads, 1)
        dropped = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, dropout_p=dropped)  # (B, N, H·W, D)
        return self.proj_drop(with_conv(self.project(out.transpose(1, 2).flatten(2), rate_attention), conv))
