"""Attention to a reduced map, as in PVT, alone or mixed with a convolution path at full resolution.

Shapes: B batch · T tokens without a place, as a class token · H, W map · L = T + H·W
    N heads · D channels a head · C = N·D · r reduction · h = ceil(H/r), w = ceil(W/r)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.layers.checks import head_dim_of
from acmix.layers.graphs import whole
from acmix.layers.mixing import Mixed, Mixing, with_conv
from acmix.layers.softmax import softmax_attention
from acmix.ops.leaving import fresh, leaves_pytorch, unflatten
from acmix.ops.unseen import is_unseen

if TYPE_CHECKING:
    from timm.models.pvt_v2 import Attention


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
        parts: an attention of timm's PVT v2, whose modules are taken over: those that reduce the map, in any way
            they do, and dropout too, which ours has none of. A pixel then takes the nearest of the reduced map.

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
        parts: Attention | None = None,
    ) -> None:
        super().__init__(mixing)
        self.heads, self.head_dim = heads, head_dim_of(dim, heads)
        self.reduction = reduction if parts is None else None
        if parts is None:
            self.q = nn.Linear(dim, dim, bias=qkv_bias)
            self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
            if self.has_attention:
                self.proj = nn.Linear(dim, dim)
            reduces = reduction > 1
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction) if reduces else nn.Identity()
            self.norm = nn.LayerNorm(dim) if reduces else nn.Identity()
            self.attn_drop = nn.Dropout(0.0)
            self.pool, self.act, self.proj_drop = nn.Identity(), nn.Identity(), nn.Identity()
        else:
            for name in ("q", "kv", "attn_drop", "proj", "proj_drop", "pool", "sr", "norm", "act"):
                setattr(self, name, getattr(parts, name) or nn.Identity())
        self.add_path(mixing, heads, self.head_dim)

    @whole
    def forward(self, x: Tensor, grid: tuple[int, int], residual: Tensor | None = None) -> Tensor:
        """(B, T + H·W, C) -> the same, for a map of (H, W) pixels; T > 0 goes with a reduction of 1.

        Args:
            x: the tokens.
            grid: (H, W).
            residual: tokens of x's shape and dtype that are added to the result, in a pass less where nobody watches.
        """
        if residual is not None and not self.takes_residual(x):
            return residual + self.forward(x, grid)
        first = x.shape[1] - grid[0] * grid[1]
        q = unflatten(self.q(x), 2, (self.heads, self.head_dim))  # (B, L, N, D)
        reduced, small = self.reduce(x, grid)  # (B, T + h·w, C)
        kv = unflatten(self.kv(reduced), 2, (2 * self.heads, self.head_dim))  # (B, T + h·w, 2·N, D)
        pieces = None
        if self.conv_path is not None:
            patches = unflatten(kv[:, first:], 1, small)  # (B, h, w, 2·N, D)
            pieces = joined(unflatten(q[:, first:], 1, grid), patches, self.reduction)
        if not self.has_attention:
            assert self.conv_path is not None
            none = x.new_zeros(x.shape) if residual is None else residual
            return with_conv(none, self.conv_path(pieces, rate=self.rates()[1]))
        k, v = kv.transpose(1, 2).split(self.heads, 1)  # (B, N, T + h·w, D) each
        out = softmax_attention(q.transpose(1, 2), k, v, self.attn_drop)  # (B, N, L, D)
        out = fresh(out.transpose(1, 2)).flatten(2)  # (B, L, C)
        return self.proj_drop(self.mixed_tokens(out, pieces, residual))

    def reduce(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(B, H·W, C) -> (B, h·w, C) and (h, w)."""
        if self.reduction == 1:
            return x, grid
        image = unflatten(x, 1, grid).permute(0, 3, 1, 2)  # (B, C, H, W)
        if self.reduction is not None:
            down, right = ((side + self.reduction - 1) // self.reduction * self.reduction - side for side in grid)
            image = F.pad(image, (0, right, 0, down))
        reduced = self.sr(self.pool(image))  # (B, C, h, w)
        tokens = self.act(self.norm(fresh(reduced.flatten(2).transpose(1, 2))))
        return tokens, (reduced.shape[2], reduced.shape[3])

    def folded(self) -> ReductionAttention:
        return self.with_rates_in_weights()


def joined(q: Tensor, patches: Tensor, factor: int | None) -> Tensor:
    """(B, H, W, N, D) and (B, h, w, 2·N, D) -> (B, H, W, 3·N, D)."""
    (rows, columns), grid = patches.shape[1:3], (q.shape[1], q.shape[2])
    if factor in (None, 1) or leaves_pytorch() or grid != (rows * factor, columns * factor):
        return torch.cat([q, enlarged(patches, factor, grid)], 3)
    if torch.is_grad_enabled() and (q.requires_grad or patches.requires_grad) and is_unseen((q, patches)):
        return Joined.apply(q, patches, factor)  # type: ignore[return-value]
    return joined_once(q, patches, factor)


def joined_once(q: Tensor, patches: Tensor, factor: int) -> Tensor:
    """The same in one pass: the patches are never enlarged in memory."""
    rows, columns = patches.shape[1:3]
    pixels = q.reshape(-1, rows, factor, columns, factor, *q.shape[3:])  # (B, h, r, w, r, N, D)
    around = patches[:, :, None, :, None].expand(*pixels.shape[:5], *patches.shape[3:])
    return torch.cat([pixels, around], 5).flatten(3, 4).flatten(1, 2)


class Joined(torch.autograd.Function):
    """`joined_once`, whose gradient sums over the pixels of a patch as a pooling does."""

    # a sum over two dimensions that do not lie side by side takes several times as long

    @staticmethod
    def forward(ctx: Any, q: Tensor, patches: Tensor, factor: int) -> Tensor:
        """(B, H, W, N, D) and (B, h, w, 2·N, D) -> (B, H, W, 3·N, D)."""
        ctx.heads, ctx.factor = q.shape[3], factor
        return joined_once(q, patches, factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of q and of the patches."""
        heads, factor, of_q = ctx.heads, ctx.factor, grad[..., : ctx.heads, :]
        if not is_unseen((grad,)):
            rows, columns = (side // factor for side in grad.shape[1:3])
            pixels = grad.reshape(-1, rows, factor, columns, factor, *grad.shape[3:])  # (B, h, r, w, r, 3·N, D)
            return of_q, pixels[..., heads:, :].sum((2, 4)), None
        image = grad.flatten(3).permute(0, 3, 1, 2)  # (B, 3·N·D, H, W), channels last
        sums = F.avg_pool2d(image, factor, divisor_override=1).permute(0, 2, 3, 1)  # (B, h, w, 3·N·D)
        return of_q, sums.unflatten(3, grad.shape[3:])[..., heads:, :], None


def enlarged(patches: Tensor, factor: int | None, grid: tuple[int, int]) -> Tensor:
    """(B, h, w, P, D) -> (B, H, W, P, D): every pixel takes what its patch has, or without a factor the nearest."""
    if factor == 1:
        return patches
    if factor is None:
        image = patches.flatten(3).permute(0, 3, 1, 2)  # (B, P·D, h, w)
        image = F.interpolate(image, size=grid, mode="nearest")
        return unflatten(image.permute(0, 2, 3, 1), 3, patches.shape[3:])
    if leaves_pytorch():
        rows, columns = (torch.arange(side, device=patches.device) // factor for side in grid)
        return patches.index_select(1, rows).index_select(2, columns)
    big = patches[:, :, None, :, None].expand(-1, -1, factor, -1, factor, -1, -1)  # (B, h, r, w, r, P, D)
    return big.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]]
