"""Attention between all tokens, as in ViT, alone or mixed with a convolution path on the grid of patches.

Shapes: B batch · T tokens without a place, as a class token · H, W grid · L = T + H·W
    N heads · D channels a head · C = N·D
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.checks import head_dim_of
from acmix.layers.graphs import whole
from acmix.layers.mixing import Mixed, Mixing, with_conv
from acmix.layers.softmax import softmax_attention
from acmix.layers.views import tokens_and_those_behind
from acmix.ops.leaving import fresh, unflatten

if TYPE_CHECKING:
    from timm.layers.attention import Attention


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
        parts: one of timm's attentions, whose modules are taken over: norms and dropout too, which ours has none of.
            The path reads q and k as they are projected, before any norm of theirs.
        grid: (H, W), for a host that does not tell it with the tokens.

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
        parts: Attention | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(mixing)
        self.heads, self.head_dim, self.grid = heads, head_dim_of(dim, heads), grid
        if parts is None:
            self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
            self.q_norm, self.k_norm, self.norm = nn.Identity(), nn.Identity(), nn.Identity()
            self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Identity()
            if self.has_attention:
                self.proj = nn.Linear(dim, dim)
        else:
            for name in ("qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"):
                setattr(self, name, getattr(parts, name))
        self.add_path(mixing, heads, self.head_dim)

    @whole
    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int] | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(B, T + H·W, C) -> the same, for a grid of (H, W) patches behind the T other tokens.

        Args:
            x: the tokens.
            grid: known from the start where None.
            attn_mask: as in PyTorch's attention.
            is_causal: as in PyTorch's attention.
            residual: tokens of x's shape and dtype that are added to the result, in a pass less where nobody watches.
        """
        if residual is not None and not self.takes_residual(x):
            return residual + self.forward(x, grid, attn_mask, is_causal)
        grid = self.known_grid(x) if grid is None else grid
        first = x.shape[1] - grid[0] * grid[1]
        flat = self.qkv(x)  # (B, L, 3·C)
        pieces = None
        if self.conv_path is not None:
            flat, behind = tokens_and_those_behind(flat, first)
            pieces = unflatten(unflatten(behind, 1, grid), 3, (3 * self.heads, self.head_dim))
        qkv = unflatten(flat, 2, (3, self.heads, self.head_dim))  # (B, L, 3, N, D)
        if not self.has_attention:
            assert self.conv_path is not None
            none = x.new_zeros(x.shape) if residual is None else residual
            return with_conv(none, self.conv_path(pieces, rate=self.rates()[1]))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, N, L, D) each
        q, k = self.q_norm(q), self.k_norm(k)
        out = softmax_attention(q, k, v, self.attn_drop, attn_mask, is_causal)  # (B, N, L, D)
        out = self.norm(fresh(out.transpose(1, 2)).flatten(2))  # (B, L, C)
        return self.proj_drop(self.mixed_tokens(out, pieces, residual))

    def known_grid(self, x: Tensor) -> tuple[int, int]:
        """The grid that the layer was made for, if there are as many tokens."""
        assert self.grid is not None, "a grid comes with the tokens, or is known from the start"
        if x.shape[1] < self.grid[0] * self.grid[1]:
            raise UsageError(
                f"{x.shape[1]} tokens do not fit the grid of {self.grid} patches; give images of the model's own "
                "size, or build it with another img_size"
            )
        return self.grid

    def folded(self) -> GlobalAttention:
        return self.with_rates_in_weights()
