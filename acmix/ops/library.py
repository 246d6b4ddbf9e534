"""The operators as PyTorch sees them: schema, shape function, gradient, and a count of multiply-adds.

What computes them is chosen when they run, below this layer, so a compiled or exported graph holds one node for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from acmix.ops import dispatch


@torch.library.custom_op("acmix::conv_path", mutates_args=())
def _conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: Sequence[int],
) -> Tensor:
    return dispatch.run("conv_path", pieces, fc_weight, fc_bias, kernels, stride, dilation, tuple(shift))


@torch.library.custom_op("acmix::conv_path_backward", mutates_args=())
def _conv_path_backward(
    grad: Tensor,
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return dispatch.run("conv_path_backward", grad, pieces, fc_weight, fc_bias, kernels, stride, dilation, tuple(shift))


@_conv_path.register_fake
def _(pieces, fc_weight, fc_bias, kernels, stride, dilation, shift):
    batch, height, width = pieces.shape[:3]
    return pieces.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, kernels.shape[0])


@_conv_path_backward.register_fake
def _(grad, pieces, fc_weight, fc_bias, kernels, stride, dilation, shift):
    grad_bias = fc_weight.new_empty(0) if fc_bias is None else fc_bias.new_empty(fc_bias.shape)
    return (
        pieces.new_empty(pieces.shape),
        fc_weight.new_empty(fc_weight.shape),
        grad_bias,
        kernels.new_empty(kernels.shape),
    )


def _save_conv_path(ctx, inputs, output):
    pieces, fc_weight, fc_bias, kernels, *ctx.settings = inputs
    ctx.save_for_backward(pieces, fc_weight, fc_bias, kernels)


def _differentiate_conv_path(ctx, grad):
    pieces, fc_weight, fc_bias, kernels = ctx.saved_tensors
    grads = torch.ops.acmix.conv_path_backward(grad, pieces, fc_weight, fc_bias, kernels, *ctx.settings)
    return grads[0], grads[1], None if fc_bias is None else grads[2], grads[3], None, None, None


_conv_path.register_autograd(_differentiate_conv_path, setup_context=_save_conv_path)


@torch.library.custom_op("acmix::window_attention", mutates_args=())
def _window_attention(
    qkv: Tensor, bias_table: Tensor | None, window: Sequence[int], shift: Sequence[int], scale: float
) -> Tensor:
    return dispatch.run("window_attention", qkv, bias_table, tuple(window), tuple(shift), scale)


@torch.library.custom_op("acmix::window_attention_backward", mutates_args=())
def _window_attention_backward(
    grad: Tensor, qkv: Tensor, bias_table: Tensor | None, window: Sequence[int], shift: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    return dispatch.run("window_attention_backward", grad, qkv, bias_table, tuple(window), tuple(shift), scale)


@_window_attention.register_fake
def _(qkv, bias_table, window, shift, scale):
    batch, height, width, _, heads, channels = qkv.shape
    return qkv.new_empty(batch, height, width, heads * channels)


@_window_attention_backward.register_fake
def _(grad, qkv, bias_table, window, shift, scale):
    grad_table = qkv.new_empty(0) if bias_table is None else bias_table.new_empty(bias_table.shape)
    return qkv.new_empty(qkv.shape), grad_table


def _save_window_attention(ctx, inputs, output):
    qkv, bias_table, *ctx.settings = inputs
    ctx.save_for_backward(qkv, bias_table)


def _differentiate_window_attention(ctx, grad):
    qkv, bias_table = ctx.saved_tensors
    grad_qkv, grad_table = torch.ops.acmix.window_attention_backward(grad, qkv, bias_table, *ctx.settings)
    return grad_qkv, None if bias_table is None else grad_table, None, None, None


_window_attention.register_autograd(_differentiate_window_attention, setup_context=_save_window_attention)


@torch.library.custom_op("acmix::local_attention", mutates_args=())
def _local_attention(
    qkv: Tensor, position: Tensor | None, size: Sequence[int], stride: int, dilation: int, scale: float
) -> Tensor:
    return dispatch.run("local_attention", qkv, position, tuple(size), stride, dilation, scale)


@torch.library.custom_op("acmix::local_attention_backward", mutates_args=())
def _local_attention_backward(
    grad: Tensor, qkv: Tensor, position: Tensor | None, size: Sequence[int], stride: int, dilation: int, scale: float
) -> tuple[Tensor, Tensor]:
    return dispatch.run("local_attention_backward", grad, qkv, position, tuple(size), stride, dilation, scale)


@_local_attention.register_fake
def _(qkv, position, size, stride, dilation, scale):
    batch, height, width, _, heads, channels = qkv.shape
    return qkv.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, heads * channels)


@_local_attention_backward.register_fake
def _(grad, qkv, position, size, stride, dilation, scale):
    return qkv.new_empty(qkv.shape), qkv.new_empty(0) if position is None else position.new_empty(position.shape)


def _save_local_attention(ctx, inputs, output):
    qkv, position, *ctx.settings = inputs
    ctx.save_for_backward(qkv, position)


def _differentiate_local_attention(ctx, grad):
    qkv, position = ctx.saved_tensors
    grad_qkv, grad_position = torch.ops.acmix.local_attention_backward(grad, qkv, position, *ctx.settings)
    return grad_qkv, None if position is None else grad_position, None, None, None, None


_local_attention.register_autograd(_differentiate_local_attention, setup_context=_save_local_attention)


@torch.library.custom_op("acmix::patchwise_attention", mutates_args=())
def _patchwise_attention(values: Tensor, weights: Tensor, size: Sequence[int]) -> Tensor:
    return dispatch.run("patchwise_attention", values, weights, tuple(size))


@torch.library.custom_op("acmix::patchwise_attention_backward", mutates_args=())
def _patchwise_attention_backward(
    grad: Tensor, values: Tensor, weights: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return dispatch.run("patchwise_attention_backward", grad, values, weights, tuple(size))


@_patchwise_attention.register_fake
def _(values, weights, size):
    return values.new_empty(values.shape)


@_patchwise_attention_backward.register_fake
def _(grad, values, weights, size):
    return values.new_empty(values.shape), weights.new_empty(weights.shape)


def _save_patchwise_attention(ctx, inputs, output):
    values, weights, *ctx.settings = inputs
    ctx.save_for_backward(values, weights)


def _differentiate_patchwise_attention(ctx, grad):
    return *torch.ops.acmix.patchwise_attention_backward(grad, *ctx.saved_tensors, *ctx.settings), None


_patchwise_attention.register_autograd(_differentiate_patchwise_attention, setup_context=_save_patchwise_attention)


# --- multiply-adds --------------------------------------------------------------------------------------------------
# torch's counter speaks of floating point operations: two for each multiply-add.


@register_flop_formula(torch.ops.acmix.conv_path)
def _(pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, *, out_shape=None, **_) -> int:
    batch, height, width, count, channels = pieces
    maps, taps = kernels[1], kernels[2] * kernels[3]
    assert out_shape is not None
    through_fc = batch * height * width * channels * maps * count
    through_kernels = out_shape[0] * out_shape[1] * out_shape[2] * kernels[0] * maps * taps
    return 2 * (through_fc + through_kernels)


@register_flop_formula(torch.ops.acmix.conv_path_backward)
def _(grad, pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, **_) -> int:
    batch, height, width, count, channels = pieces
    maps, taps = kernels[1], kernels[2] * kernels[3]
    through_fc = batch * height * width * channels * maps * count
    through_kernels = grad[0] * grad[1] * grad[2] * kernels[0] * maps * taps
    return 2 * (3 * through_fc + 2 * through_kernels)


@register_flop_formula(torch.ops.acmix.window_attention)
def _(qkv, bias_table, window, shift, scale, **_) -> int:
    return 2 * 2 * products_of_windows(qkv, window)


@register_flop_formula(torch.ops.acmix.window_attention_backward)
def _(grad, qkv, bias_table, window, shift, scale, **_) -> int:
    return 2 * 5 * products_of_windows(qkv, window)


@register_flop_formula(torch.ops.acmix.local_attention)
def _(qkv, position, size, stride, dilation, scale, *, out_shape=None, **_) -> int:
    assert out_shape is not None
    return 2 * 2 * prod(size) * prod(out_shape)


@register_flop_formula(torch.ops.acmix.local_attention_backward)
def _(grad, qkv, position, size, stride, dilation, scale, **_) -> int:
    return 2 * 5 * prod(size) * prod(grad)


@register_flop_formula(torch.ops.acmix.patchwise_attention)
def _(values, weights, size, **_) -> int:
    return 2 * prod(size) * prod(values)


@register_flop_formula(torch.ops.acmix.patchwise_attention_backward)
def _(grad, values, weights, size, **_) -> int:
    return 2 * 2 * prod(size) * prod(values)


def products_of_windows(qkv: Sequence[int], window: Sequence[int]) -> int:
    """Multiply-adds of one of attention's products: every (query, key) pair of a window, in every channel."""
    batch, height, width, _, heads, channels = qkv
    windows = batch * -(-height // window[0]) * -(-width // window[1])
    return windows * (window[0] * window[1]) ** 2 * heads * channels
