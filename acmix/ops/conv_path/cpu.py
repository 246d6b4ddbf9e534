"""The convolution path on the CPU: calls `forward.cpp` and `backward.cpp`."""

from __future__ import annotations

import torch
from torch import Tensor

from acmix.ops import native
from acmix.ops.conv_path.spec import MOST_TAPS, Arguments, output, tokens_before
from acmix.ops.native import adjacent, call, optional, parameter


def why_not(arguments: Arguments) -> str | None:
    """The reason why the kernel does not take these arguments, or None where it does."""
    rows, columns = arguments.kernels.shape[2:]
    if rows * columns > MOST_TAPS:
        return f"takes kernels of at most {MOST_TAPS} taps, and these have {rows}×{columns}"
    return native.why_not(arguments)


def forward(arguments: Arguments) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    arguments = arguments._replace(pieces=adjacent(arguments.pieces))
    out = output(arguments)
    if not arguments.pieces.numel():
        # tokens without a map, if anything
        out.zero_()
        for each in (arguments.plus_bias, arguments.plus):
            if each is not None:
                out += each.to(out.dtype)
        return out
    if out.numel():
        fc, bias = parameter(arguments.fc_weight.T), optional(arguments.fc_bias)
        plus = None if arguments.plus is None else arguments.plus.contiguous()
        added = (plus, optional(arguments.plus_bias))
        tensors = (arguments.pieces, fc, bias, parameter(arguments.kernels), *added, out)
        call("acmix_conv_path", tensors, shape_of(out, arguments))
    return out


def backward(
    grad: Tensor, arguments: Arguments, onto: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (None where there is none) and kernels; see `spec.ONTO`."""
    arguments = arguments._replace(pieces=adjacent(arguments.pieces))
    pieces, fc_weight, fc_bias, kernels = arguments[:4]
    fc, fc_rows, bias, taps = parameter(fc_weight.T), parameter(fc_weight), optional(fc_bias), parameter(kernels)
    grad_pieces = torch.empty(pieces.shape, dtype=pieces.dtype) if onto is None else onto
    grad_fc, grad_bias, grad_taps = torch.empty_like(fc_rows), fc.new_empty(fc.shape[1]), torch.empty_like(taps)
    if grad.numel() and pieces.numel():
        call(
            "acmix_conv_path_backward",
            (grad.contiguous(), pieces, fc, fc_rows, bias, taps, grad_pieces, grad_fc, grad_bias, grad_taps),
            shape_of(grad, arguments, onto=onto is not None),
        )
    else:
        if onto is None:
            grad_pieces.zero_()
        for each in (grad_fc, grad_bias, grad_taps):
            each.zero_()
    return (
        grad_pieces,
        grad_fc.to(fc_weight.dtype),
        None if fc_bias is None else grad_bias.to(fc_bias.dtype),
        grad_taps.to(kernels.dtype),
    )


def shape_of(out: Tensor, arguments: Arguments, *, onto: bool = False) -> tuple[int, ...]:
    """What `Shape` in `shape.h` holds, in its order; `out` is the output or its gradient."""
    pieces, _, _, kernels, stride, dilation, shift, *_ = arguments
    batch, height, width, count, channels = pieces.shape
    outputs, maps, rows, columns = kernels.shape
    return (
        *(batch, height, width, count, channels, maps, outputs // channels, rows, columns, stride, dilation),
        *(shift[0] % height, shift[1] % width, int(onto), tokens_before(out, arguments), *pieces.stride()[:4]),
    )
