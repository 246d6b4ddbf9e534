"""What the operators' tables of cases share: how tensors lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def finish(made: dict[str, Tensor], data: str, layout: str, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Casts, moves and lays out, and asks for gradients of what results."""
    moved = {name: tensor.to(device, dtype) for name, tensor in made.items()}
    moved[data] = laid_out(moved[data], layout)
    return {name: tensor.requires_grad_() for name, tensor in moved.items()}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, elsewhere in memory.

    contiguous: as the projection of a map with channels last gives them.
    planes: channels first, as a 1×1 convolution gives them.
    slice: a part of something larger, on all sides, with gaps between numbers.
    expanded: one image for the whole batch, with a step of 0.
    """
    if layout == "contiguous":
        return x
    if layout == "planes":
        return x.movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2))
    if layout == "slice":
        larger = x.new_full((x.shape[0], *(2 * side + 1 for side in x.shape[1:])), float("nan"))
        inner = larger[(slice(None), *(slice(1, None, 2) for _ in x.shape[1:]))]
        return inner.copy_(x)
    assert layout == "expanded", layout
    return x[:1].expand_as(x)
