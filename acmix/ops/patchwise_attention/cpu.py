"""Patchwise attention on the CPU: calls `forward.cpp` and `backward.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops import native
from acmix.ops.native import call, parameter
from acmix.ops.patchwise_attention.spec import Arguments


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernel does not take these arguments, or None where it does."""
    return native.why_not(arguments)


def forward(arguments: Arguments) -> Tensor:
    """out_i = Σ_j w_ij · v_j over the Ky×Kx pixels j around i; see `acmix.ops.patchwise_attention`."""
    values, weights = parameter(arguments.values), parameter(arguments.weights)
    out = torch.empty_like(values)
    if out.numel():
        call("acmix_patchwise_attention", (values, weights, out), shape_of(arguments))
    return out.to(arguments.values.dtype)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients of values and of weights."""
    values, weights = parameter(arguments.values), parameter(arguments.weights)
    grad_values, grad_weights = torch.zeros_like(values), torch.empty_like(weights)
    if values.numel():
        tensors = (parameter(grad), values, weights, grad_values, grad_weights)
        call("acmix_patchwise_attention_backward", tensors, shape_of(arguments))
    return grad_values.to(arguments.values.dtype), grad_weights.to(arguments.weights.dtype)


def shape_of(arguments: Arguments) -> tuple[int, ...]:
    """What `Shape` in `shape.h` holds, in its order."""
    values, weights, size = arguments
    return (*values.shape, weights.shape[4], *size)
