"""A product added to a map where the map lies.

Shapes: R rows, of pixels or tokens · I, C channels in and out
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.derivatives import needs_definition


def add_product(out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """out + x·weightᵀ, in the memory of `out`, which nobody else may hold.

    A linear layer copies its bias into its output and then adds the product to that; here the copy is a map that has
    to be added anyway.

    Args:
        out: (…, C), one number after the other.
        x: (…, I), of as many rows.
        weight: (C, I).
    """
    # a mode counts or records operators, and knows the plain ones
    if needs_definition((out, x, weight)) or torch._C._len_torch_dispatch_stack():
        return out + F.linear(x, weight)
    if torch.is_grad_enabled() and (out.requires_grad or x.requires_grad or weight.requires_grad):
        return AddProduct.apply(out, x, weight)  # type: ignore[no-any-return]
    return added(out, x, weight)


def added(out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same, without a gradient."""
    rows = out.view(-1, out.shape[-1])  # (R, C)
    rows.addmm_(x.reshape(-1, x.shape[-1]), weight.T)
    return out


class AddProduct(torch.autograd.Function):
    """`added`, with its gradient."""

    # PyTorch's own `addmm_` on a view of the map would copy the gradient twice

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """(…, C), (…, I), (C, I) -> (…, C)."""
        ctx.mark_dirty(out)
        ctx.save_for_backward(x, weight)
        return added(out, x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of all three."""
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])  # (R, C)
        of_x = (rows @ weight).view(x.shape) if ctx.needs_input_grad[1] else None
        of_weight = rows.T @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[2] else None
        return grad, of_x, of_weight
