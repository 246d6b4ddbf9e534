"""Attention to a reduced map, as in PVT, alone or mixed with a convolution path at full resolution.

Shapes: B batch · T tokens without a place, as a class token · H, W map · L = T + H·W
    N heads · D channels a head · C = N·D · r reduction · h = ceil(H/r), w = ceil(W/r)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.mixing import Mixed, Mixing, with_conv


class ReductionAttention(Mixed):
    """Lets every pixel attend to patches of r×r pixels, and adds a convolution of q and of the patches' k and v.

        out = α · proj(softmax(D^-½·q·kᵀ)·v) + β · conv path        k, v of norm(r×r convolution of x with stride r)

    For the convolution path the patches' k and v are brought back to H×W: each pixel takes those of its patch. A side
    that r does not divide is filled up with zeros for the reduction. A token without a place on the map gets
    α · proj(…) alone.

    Args:
        dim: C.
        heads: N.
        reduction: r; 1 for attention to the pixels themselves, and to the tokens without a place.
        qkv_bias: whether the projections have biases.
        mixing: of the two paths; None for attention alone.

    Source: PVT (ICCV 2021); ACmix, table 2. The authors never released this form: k and v brought back to H×W, and
        `proj` on the attention alone, are our reading; its multiply-adds are the published ones.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        reduction: int = 1,
        *,
        qkv_bias: bool = True,
        mixing: Mixing | None = Mixing(),  # noqa: B008  frozen
    ) -> None:
        if heads < 1 or dim % heads:
            raise UsageError(f"{heads} heads do not divide {dim} channels; choose a divisor")
        super().__init__(mixing)
        self.heads, self.head_dim, self.reduction = heads, dim // heads, reduction
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        if self.has_attention:
            self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)
        self.add_path(mixing, heads, self.head_dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T + H·W, C) -> the same, for a map of (H, W) pixels; T > 0 goes with a reduction of 1."""
        rate_attention, rate_conv = self.rates()
        first = x.shape[1] - grid[0] * grid[1]
        q = self.q(x).unflatten(2, (self.heads, self.head_dim))  # (B, L, N, D)
        reduced, small = self.reduce(x, grid)  # (B, T + h·w, C)
        kv = self.kv(reduced).unflatten(2, (2 * self.heads, self.head_dim))  # (B, T + h·w, 2·N, D)
        conv = None
        if self.conv_path is not None:
            patches = kv[:, first:].unflatten(1, small)  # (B, h, w, 2·N, D)
            pieces = [q[:, first:].unflatten(1, grid), enlarged(patches, self.reduction, grid)]
            conv = self.conv_path(torch.cat(pieces, 3), rate=rate_conv)  # (B, H, W, C)
        if not self.has_attention:
            return with_conv(x.new_zeros(x.shape), conv)
        k, v = kv.transpose(1, 2).split(self.heads, 1)  # (B, N, T + h·w, D) each
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v)  # (B, N, L, D)
        # d-major channels of the path are added to head-major ones index by index, as in every ACmix
        return with_conv(self.project(out.transpose(1, 2).flatten(2), rate_attention), conv)

    def reduce(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(B, H·W, C) -> (B, h·w, C) and (h, w)."""
        r = self.reduction
        if r == 1:
            return x, grid
        small = (grid[0] + r - 1) // r, (grid[1] + r - 1) // r
        image = x.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, C, H, W)
        image = F.pad(image, (0, small[1] * r - grid[1], 0, small[0] * r - grid[0]))
        return self.norm(self.sr(image).flatten(2).transpose(1, 2)), small


def enlarged(patches: Tensor, factor: int, grid: tuple[int, int]) -> Tensor:
    """(B, h, w, P, D) -> (B, H, W, P, D): every pixel takes what its patch has."""
    if factor == 1:
        return patches
    big = patches[:, :, None, :, None].expand(-1, -1, factor, -1, factor, -1, -1)  # (B, h, r, w, r, P, D)
    return big.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]]
