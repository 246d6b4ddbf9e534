"""Window attention on the CPU: calls `forward.cpp` and `backward.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops import native
from acmix.ops.native import adjacent, call, like, optional
from acmix.ops.window_attention.spec import MOST_WINDOW_PIXELS, Arguments, output


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernel does not take these arguments, or None where it does."""
    rows, columns = arguments.window
    if rows * columns > MOST_WINDOW_PIXELS:
        return f"takes windows of at most {MOST_WINDOW_PIXELS} pixels, and this one has {rows}×{columns}"
    return native.why_not(arguments)


def forward(arguments: Arguments) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    arguments = arguments._replace(qkv=adjacent(arguments.qkv))
    out = output(arguments)
    if out.numel():
        tensors = (arguments.qkv, optional(arguments.bias_table), out)
        call("acmix_window_attention", tensors, shape_of(arguments), arguments.scale)
    return out


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of the bias table (None where there is none)."""
    arguments = arguments._replace(qkv=adjacent(arguments.qkv))
    qkv, table = arguments.qkv, optional(arguments.bias_table)
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    grad_table = None if table is None else torch.zeros_like(table)
    if grad.numel():
        tensors = (grad.contiguous(), qkv, table, grad_qkv, grad_table)
        call("acmix_window_attention_backward", tensors, shape_of(arguments), arguments.scale)
    return grad_qkv, like(grad_table, arguments.bias_table)


def shape_of(arguments: Arguments) -> tuple[int, ...]:
    """What `Shape` in `shape.h` holds, in its order."""
    qkv, _, window, shift, _ = arguments
    batch, height, width, _, heads, channels = qkv.shape
    return (
        *(batch, height, width, heads, channels, *window, shift[0] % height, shift[1] % width),
        *qkv.stride()[:5],
    )
