"""Window attention on the CPU: calls `forward.cpp` and `backward.cpp`."""

from __future__ import annotations

from torch import Tensor

from acmix.ops import native
from acmix.ops.window_attention.spec import MOST_WINDOW_PIXELS, Arguments, output


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernel does not take these arguments, or None where it does."""
    rows, columns = arguments.window
    if rows * columns > MOST_WINDOW_PIXELS:
        return f"takes windows of at most {MOST_WINDOW_PIXELS} pixels, and this one has {rows}×{columns}"
    return native.why_not(arguments)


def forward(arguments: Arguments) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    return native.attention("acmix_window_attention", arguments, output(arguments), shape_of)


def backward(grad: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv and of the bias table (None where there is none)."""
    return native.attention_backward("acmix_window_attention_backward", grad, arguments, shape_of)


def shape_of(arguments: Arguments) -> tuple[int, ...]:
    """What `Shape` in `shape.h` holds, in its order."""
    qkv, _, window, shift, _ = arguments
    batch, height, width, _, heads, channels = qkv.shape
    return (
        *(batch, height, width, heads, channels, *window, shift[0] % height, shift[1] % width),
        *qkv.stride()[:5],
    )
