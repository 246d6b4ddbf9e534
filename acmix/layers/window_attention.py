"""Swin's window attention, alone or mixed with a convolution path.

Shapes: B batch · H, W map · N heads · D channels a head · C = N·D
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.checks import head_dim_of
from acmix.layers.graphs import whole
from acmix.layers.mixing import Mixed, Mixing, mixed
from acmix.layers.products import add_product
from acmix.ops.both_paths import both_paths
from acmix.ops.leaving import unflatten
from acmix.ops.window_attention import checked, reference
from acmix.ops.window_attention.spec import Arguments


class WindowAttention(Mixed):
    """Attention within windows of a map, mixed with a convolution of the same q, k and v.

        out = α · proj(window attention) + β · conv path        both rates start at 0.5
        out = proj(window attention)                            without mixing

    Args:
        dim: C, channels of the map.
        heads: N.
        window: (rows, columns) of a window, in pixels.
        qkv_bias: whether the shared projection has a bias.
        attn_drop: dropout of the attention's weights in training, by plain PyTorch: slower than without.
        mixing: of the two paths; None for attention alone.

    Source: ACmix, "Integration of self-attention and convolution"; Swin Transformer.
    """

    # also of layers that were pickled before there was any
    attn_drop = 0.0

    def __init__(
        self,
        dim: int,
        heads: int,
        window: tuple[int, int],
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        mixing: Mixing | None = Mixing(),  # noqa: B008  frozen
    ) -> None:
        if min(window) < 1:
            raise UsageError(f"window={window}; both sides must be at least 1")
        super().__init__(mixing)
        self.heads, self.head_dim, self.window = heads, head_dim_of(dim, heads), window
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if self.has_attention:
            self.proj = nn.Linear(dim, dim)
            entries = (2 * window[0] - 1) * (2 * window[1] - 1)
            self.relative_position_bias_table = nn.Parameter(torch.empty(entries, heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.add_path(mixing, heads, self.head_dim)

    @whole
    def forward(self, x: Tensor, shift: tuple[int, int] = (0, 0), residual: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); both paths see the map rolled by −shift and give it rolled back.

        Args:
            x: the map.
            shift: (rows, columns).
            residual: a map of x's shape and dtype that is added to the result, in a pass less where nobody watches.
        """
        if residual is not None and not self.takes_residual(x):
            return residual + self.forward(x, shift)
        rate_attention, rate_conv = self.rates()
        qkv = unflatten(self.qkv(x), 3, (3, self.heads, self.head_dim))  # (B, H, W, 3, N, D)
        # a residual has come so far only where it is added there
        if residual is not None or (self.has_attention and self.adds_in_path(x)):
            weight, bias = self.scaled_projection(rate_attention, qkv.dtype)
            assert self.conv_path is not None
            added = dict(rate=rate_conv, plus=residual, plus_bias=bias)
            pieces = qkv.flatten(3, 4)
            if self.drops() or type(self).attend is not WindowAttention.attend:
                attention, out = self.attend(qkv, shift), self.conv_path(pieces, shift, **added)
            else:
                path = self.conv_path.arguments(pieces, shift, **added)
                attention, out = both_paths("window_attention", self.arguments(qkv, shift), path)
            return add_product(out, attention, weight)
        conv = None if self.conv_path is None else self.conv_path(qkv.flatten(3, 4), shift, rate=rate_conv)
        if self.has_attention:
            out = mixed(self.project(self.attend(qkv, shift), rate_attention), conv)
        else:
            assert conv is not None
            out = conv
        return out

    def attend(self, qkv: Tensor, shift: tuple[int, int]) -> Tensor:
        """(B, H, W, 3, N, D) -> (B, H, W, C)."""
        if self.drops():
            return reference.forward(self.arguments(qkv, shift), self.attn_drop)
        return ops.window_attention(qkv, self.relative_position_bias_table, window=self.window, shift=shift)

    def drops(self) -> bool:
        """Whether weights of the attention are dropped."""
        return self.training and self.attn_drop > 0

    def arguments(self, qkv: Tensor, shift: tuple[int, int]) -> Arguments:
        """Those of the attention's operator."""
        return checked(qkv, self.relative_position_bias_table, self.window, shift)

    def folded(self) -> WindowAttention:
        return self.with_rates_in_weights()
