"""What the families of tokens share: a block, and the bridge from images to tokens.

Shapes: B batch · T tokens without a place, as a class token · H, W grid · L = T + H·W · C channels · h, w image
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import DropPath, Mlp, resample_abs_pos_embed
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.ops import pair


class TokenBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        dim: C.
        attention: takes tokens (B, L, C) and their grid (H, W), and gives tokens.
        mlp_ratio: hidden over outer width of the MLP.
        drop: dropout in the MLP and behind the attention.
        drop_path: chance to skip.
    """

    def __init__(self, dim: int, attention: nn.Module, *, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.drop = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = x + self.drop_path(self.drop(self.attn(self.norm1(x), grid)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TokenBlocks(nn.ModuleList):
    """Blocks one after the other; with `grad_checkpointing`, each keeps only its input for the backward pass."""

    grad_checkpointing = False

    def run(self, block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, L, C) -> (B, L, C), through one block."""
        return checkpoint(block, x, grid) if self.grad_checkpointing else block(x, grid)

    def run_all(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, L, C) -> (B, L, C), through all."""
        for block in self:
            x = self.run(block, x, grid)
        return x


def padded(x: Tensor, patch: int | tuple[int, int]) -> Tensor:
    """(B, channels, h, w) -> the same with zeros below and to the right, so that patches fit."""
    rows, columns = pair(patch)
    # this form of "what lacks to a multiple" is simplified where the length is symbolic
    down, right = (
        (length + side - 1) // side * side - length for length, side in zip(x.shape[2:], (rows, columns), strict=True)
    )
    return F.pad(x, (0, right, 0, down))


def positions(learned: Tensor, grid: tuple[int, int], learned_grid: tuple[int, int], first: int) -> Tensor:
    """Learned positions (1, T + …, C) for a grid: as they are, or interpolated behind the first T."""
    return resample_abs_pos_embed(learned, list(grid), list(learned_grid), num_prefix_tokens=first)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, T + H·W, C) -> (B, C, H, W), without the first T."""
    first = tokens.shape[1] - grid[0] * grid[1]
    return tokens[:, first:].unflatten(1, grid).permute(0, 3, 1, 2).contiguous()


def check_pool(global_pool: str) -> None:
    """Refuses a way of pooling that tokens do not have."""
    if global_pool not in ("token", "avg", ""):
        raise UsageError(f"global_pool={global_pool!r}; expected 'token', 'avg' or ''")
