"""Local attention on the CPU: calls `forward.cpp` and `backward.cpp`."""

from __future__ import annotations

from torch import Tensor

from acmix.ops import native
from acmix.ops.local_attention.spec import MOST_SIDE, Arguments, output


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernel does not take these arguments, or None where it does."""
    rows, columns = arguments.size
    if max(rows, columns) > MOST_SIDE:
        return f"takes neighbourhoods of at most {MOST_SIDE} pixels a side, and this one has {rows}×{columns}"
    return native.why_not(arguments)


def forward(arguments: Arguments) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    return native.attention("acmix_local_attention", arguments, output(arguments), shape_of)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of position (None where there is none)."""
    return native.attention_backward("acmix_local_attention_backward", grad, arguments, shape_of)


def shape_of(arguments: Arguments) -> tuple[int, ...]:
    """What `Shape` in `shape.h` holds, in its order."""
    qkv, _, size, stride, dilation, _ = arguments
    batch, height, width, _, heads, channels = qkv.shape
    return (batch, height, width, heads, channels, *size, stride, dilation, *qkv.stride()[:5])
