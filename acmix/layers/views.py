"""Two views of the same tokens, with one gradient of them.

Shapes: B batch · T tokens without a place, as a class token · L all tokens · C channels
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.unseen import is_unseen


def tokens_and_those_behind(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """(B, L, C) -> the same, and (B, L − first, C) without the first ones.

    Apart, PyTorch makes the second's gradient as long as the first's, in zeros, and adds the two.
    """
    if first and torch.is_grad_enabled() and x.requires_grad and is_unseen((x,)):
        return TokensAndThoseBehind.apply(x, first)  # type: ignore[return-value]
    return x, x[:, first:]


class TokensAndThoseBehind(torch.autograd.Function):
    """Both views, and their gradient in one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """(B, L, C) -> (B, L, C) and (B, L − first, C)."""
        ctx.first = first
        return x.view_as(x), x[:, first:]

    @staticmethod
    def backward(ctx: Any, of_all: Tensor, of_behind: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum of both gradients, (B, L, C)."""
        first = ctx.first
        if torch.is_grad_enabled() or not is_unseen((of_all, of_behind)):
            return of_all + F.pad(of_behind, (0, 0, first, 0)), None
        found = torch.empty_like(of_all, memory_format=torch.contiguous_format)
        found[:, :first] = of_all[:, :first]
        torch.add(of_all[:, first:], of_behind, out=found[:, first:])
        return found, None
