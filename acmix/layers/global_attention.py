"""Attention between all tokens, as in ViT, alone or mixed with a convolution path on the grid of patches.

Shapes: B batch · T tokens without a place, as a class token · H, W grid · L = T + H·W
    N heads · D channels a head · C = N·D
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.mixing import Mixed, Mixing, with_conv


class GlobalAttention(Mixed):
    """Lets every token attend to all, and adds a convolution of the same q, k and v on the grid.

        out = α · proj(softmax(D^-½·q·kᵀ)·v) + β · conv path        both rates start at 0.5
        out = proj(softmax(D^-½·q·kᵀ)·v)                            without mixing

    A token without a place on the grid takes no part in the convolution: it gets α · proj(…) alone.

    Args:
        dim: C.
        heads: N.
        qkv_bias: whether the shared projection has a bias.
        mixing: of the two paths; None for attention alone.

    Source: ViT (ICLR 2021); ACmix, "Integration of self-attention and convolution". The authors never released this
        form: that the path runs on the grid alone, and `proj` on the attention alone, is our reading.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        mixing: Mixing | None = Mixing(),  # noqa: B008  frozen
    ) -> None:
        if heads < 1 or dim % heads:
            raise UsageError(f"{heads} heads do not divide {dim} channels; choose a divisor")
        super().__init__(mixing)
        self.heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if self.has_attention:
            self.proj = nn.Linear(dim, dim)
        self.add_path(mixing, heads, self.head_dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T + H·W, C) -> the same, for a grid of (H, W) patches behind the T other tokens."""
        rate_attention, rate_conv = self.rates()
        first = x.shape[1] - grid[0] * grid[1]
        qkv = self.qkv(x).unflatten(2, (3, self.heads, self.head_dim))  # (B, L, 3, N, D)
        conv = None
        if self.conv_path is not None:
            pieces = qkv[:, first:].unflatten(1, grid).flatten(3, 4)  # (B, H, W, 3·N, D)
            conv = self.conv_path(pieces, rate=rate_conv)  # (B, H, W, C)
        if not self.has_attention:
            return with_conv(x.new_zeros(x.shape), conv)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, N, L, D) each
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, L, C)
        # d-major channels of the path are added to head-major ones index by index, as in every ACmix
        return with_conv(self.project(out, rate_attention), conv)
