"""What networks are built of: blocks one after the other, the block of the transformer families, patches that fit.

Shapes: B batch · C channels · h, w image
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from acmix.layers import Mixed
from acmix.layers.plain import is_untouched
from acmix.models.checkpointing import checkpointed
from acmix.ops import pair


class Blocks(nn.Sequential):
    """Blocks one after the other; with `grad_checkpointing`, each keeps only its input for the backward pass."""

    grad_checkpointing = False

    def forward(self, input: Tensor, *more: Any) -> Tensor:
        """What the last block gives; `more` goes to every one."""
        x = input
        for block in self:
            x = self.run(block, x, *more)
        return x

    def run(self, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """What one of the blocks gives."""
        return checkpointed(block, x, *more) if self.grad_checkpointing else block(x, *more)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        dim: C.
        attention: takes (B, …, C), and what else the block is given, and gives (B, …, C).
        mlp_ratio: hidden over outer width of the MLP.
        drop: dropout in the MLP and behind the attention.
        drop_path: chance to skip.
        eps: of the norms.
    """

    def __init__(
        self, dim: int, attention: nn.Module, *, mlp_ratio: float, drop: float, drop_path: float, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attention
        self.drop = nn.Dropout(drop)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = drop_path_of(drop_path)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """(B, …, C) -> (B, …, C)."""
        if self.attention_adds(x):
            x = self.attn(self.norm1(x), *more, residual=x)
        else:
            x = x + self.drop_path(self.drop(self.attn(self.norm1(x), *more)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attention_adds(self, x: Tensor) -> bool:
        """Whether the attention can add its residual itself: nothing lies between, and nobody watches."""
        # what torch.fx traces shows both
        if not isinstance(x, Tensor) or not isinstance(self.attn, Mixed):
            return False
        return passes_on(self.drop) and passes_on(self.drop_path) and self.attn.takes_residual(x)


def passes_on(module: nn.Module) -> bool:
    """Whether a module gives what it gets, and has no hook that would see it."""
    if type(module) in (nn.Dropout, DropPath):
        drops = module.training and (module.p if isinstance(module, nn.Dropout) else module.drop_prob) != 0.0
    else:
        drops = type(module) is not nn.Identity
    return not drops and is_untouched(module)


def drop_path_of(rate: float) -> nn.Module:
    """A module that skips a branch with that chance."""
    return DropPath(rate) if rate > 0.0 else nn.Identity()


def init_linear(module: nn.Module) -> None:
    """Draws linear weights from a normal of width 0.02, cut at ±2, and zeroes their biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def missing(length: int, step: int) -> int:
    """How much `length` lacks to a multiple of `step`."""
    # not `-length % step`: a compiler simplifies this form where the length is symbolic, ten times as fast in the end
    return (length + step - 1) // step * step - length


def padded(x: Tensor, patch: int | tuple[int, int]) -> Tensor:
    """(B, channels, h, w) -> the same with zeros below and to the right, so that patches fit."""
    rows, columns = pair(patch)
    return F.pad(x, (0, missing(x.shape[3], columns), 0, missing(x.shape[2], rows)))
