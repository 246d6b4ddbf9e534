"""Patchwise attention on a GPU: there is no kernel yet."""

from __future__ import annotations

from torch import Tensor

from acmix.ops.patchwise_attention.spec import Arguments

NONE = "patchwise_attention has no GPU kernel yet"


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernels do not take these arguments."""
    return NONE


def forward(arguments: Arguments) -> Tensor:
    """Is never reached, since `why_not` refuses everything."""
    raise NotImplementedError(NONE)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Is never reached either."""
    raise NotImplementedError(NONE)
