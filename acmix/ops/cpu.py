"""The operators on the CPU: calls the C++ kernels in `kernels/`, which `cpu_build` builds and loads.

Maps are float32 or bfloat16, parameters float32 in the kernels whatever they are outside; sums are float32. Signatures
and shapes are those of `reference.py` and `local.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from acmix.ops import cpu_build, local, reference

POINTER = ctypes.c_void_p
# what the kernels have tables of a fixed size for; beyond it the reference computes
MOST_TAPS, MOST_WINDOW_PIXELS, MOST_SIDE = 225, 1024, 255


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> Tensor:
    """f_t = Σ_p fc[t, p]·F_p + b_t, then out[d·M+m] = Σ_t S[d·M+m, t] ⋆ f_t[d]; see `acmix.ops.conv_path`."""
    if kernels.shape[2] * kernels.shape[3] > MOST_TAPS:
        return reference.conv_path(pieces, fc_weight, fc_bias, kernels, stride, dilation, shift)
    pieces = adjacent(pieces)
    batch, height, width = pieces.shape[:3]
    out = pieces.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, kernels.shape[0])
    if out.numel():
        fc, bias, taps = parameter(fc_weight.T), optional(fc_bias), parameter(kernels)
        call(
            "acmix_conv_path",
            (pieces, fc, bias, taps, out),
            conv_path_sizes(pieces, kernels, stride, dilation, shift),
        )
    return out


def conv_path_backward(
    grad: Tensor,
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int,
    dilation: int,
    shift: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of pieces, fc_weight, fc_bias (empty where there is none) and kernels."""
    if kernels.shape[2] * kernels.shape[3] > MOST_TAPS:
        return reference.conv_path_backward(grad, pieces, fc_weight, fc_bias, kernels, stride, dilation, shift)
    pieces = adjacent(pieces)
    fc, fc_rows, bias, taps = parameter(fc_weight.T), parameter(fc_weight), optional(fc_bias), parameter(kernels)
    grad_pieces = torch.empty(pieces.shape, dtype=pieces.dtype)
    grad_fc, grad_bias, grad_taps = torch.empty_like(fc_rows), fc.new_empty(fc.shape[1]), torch.empty_like(taps)
    if grad.numel():
        call(
            "acmix_conv_path_backward",
            (grad.contiguous(), pieces, fc, fc_rows, bias, taps, grad_pieces, grad_fc, grad_bias, grad_taps),
            conv_path_sizes(pieces, kernels, stride, dilation, shift),
        )
    else:
        for each in (grad_pieces, grad_fc, grad_bias, grad_taps):
            each.zero_()
    return (
        grad_pieces,
        grad_fc.to(fc_weight.dtype),
        fc_weight.new_empty(0) if fc_bias is None else grad_bias.to(fc_bias.dtype),
        grad_taps.to(kernels.dtype),
    )


def conv_path_sizes(
    pieces: Tensor, kernels: Tensor, stride: int, dilation: int, shift: tuple[int, int]
) -> tuple[int, ...]:
    """What `Shape` in `conv_path.cpp` holds."""
    batch, height, width, count, channels = pieces.shape
    outputs, maps, rows, columns = kernels.shape
    return (
        *(batch, height, width, count, channels, maps, outputs // channels, rows, columns, stride, dilation),
        *(shift[0] % height, shift[1] % width, *pieces.stride()[:4]),
    )


def window_attention(
    qkv: Tensor, bias_table: Tensor | None, window: tuple[int, int], shift: tuple[int, int], scale: float
) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    if window[0] * window[1] > MOST_WINDOW_PIXELS:
        return reference.window_attention(qkv, bias_table, window, shift, scale)
    qkv = adjacent(qkv)
    batch, height, width, _, heads, channels = qkv.shape
    out = qkv.new_empty(batch, height, width, heads * channels)
    if out.numel():
        tensors = (qkv, optional(bias_table), out)
        call("acmix_window_attention", tensors, window_attention_sizes(qkv, window, shift), scale)
    return out


def window_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor | None,
    window: tuple[int, int],
    shift: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the bias table (empty where there is none)."""
    if window[0] * window[1] > MOST_WINDOW_PIXELS:
        return reference.window_attention_backward(grad, qkv, bias_table, window, shift, scale)
    qkv, table = adjacent(qkv), optional(bias_table)
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    grad_table = None if table is None else torch.zeros_like(table)
    if grad.numel():
        tensors = (grad.contiguous(), qkv, table, grad_qkv, grad_table)
        call("acmix_window_attention_backward", tensors, window_attention_sizes(qkv, window, shift), scale)
    if bias_table is None or grad_table is None:
        return grad_qkv, qkv.new_empty(0)
    return grad_qkv, grad_table.to(bias_table.dtype)


def window_attention_sizes(qkv: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> tuple[int, ...]:
    """What `Shape` in `window_attention.cpp` holds."""
    batch, height, width, _, heads, channels = qkv.shape
    return (
        *(batch, height, width, heads, channels, *window, shift[0] % height, shift[1] % width),
        *qkv.stride()[:5],
    )


def local_attention(
    qkv: Tensor, position: Tensor | None, size: tuple[int, int], stride: int, dilation: int, scale: float
) -> Tensor:
    """softmax_j(scale·q_i·(k_j − p_j))·v_j over the Ky×Kx pixels j around i; see `acmix.ops.local_attention`."""
    if max(size) > MOST_SIDE:
        return local.local_attention(qkv, position, size, stride, dilation, scale)
    qkv = adjacent(qkv)
    batch, height, width, _, heads, channels = qkv.shape
    out = qkv.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, heads * channels)
    if out.numel():
        tensors = (qkv, optional(position), out)
        call("acmix_local_attention", tensors, local_attention_sizes(qkv, size, stride, dilation), scale)
    return out


def local_attention_backward(
    grad: Tensor, qkv: Tensor, position: Tensor | None, size: tuple[int, int], stride: int, dilation: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of position (empty where there is none)."""
    if max(size) > MOST_SIDE:
        return local.local_attention_backward(grad, qkv, position, size, stride, dilation, scale)
    qkv, where = adjacent(qkv), optional(position)
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    grad_where = None if where is None else torch.zeros_like(where)
    if grad.numel():
        tensors = (grad.contiguous(), qkv, where, grad_qkv, grad_where)
        call("acmix_local_attention_backward", tensors, local_attention_sizes(qkv, size, stride, dilation), scale)
    if position is None or grad_where is None:
        return grad_qkv, qkv.new_empty(0)
    return grad_qkv, grad_where.to(position.dtype)


def local_attention_sizes(qkv: Tensor, size: tuple[int, int], stride: int, dilation: int) -> tuple[int, ...]:
    """What `Shape` in `local_attention.cpp` holds."""
    batch, height, width, _, heads, channels = qkv.shape
    return (batch, height, width, heads, channels, *size, stride, dilation, *qkv.stride()[:5])


def patchwise_attention(values: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """out_i = Σ_j w_ij · v_j over the Ky×Kx pixels j around i; see `acmix.ops.patchwise_attention`."""
    wide, of_pixels = parameter(values), parameter(weights)
    out = torch.empty_like(wide)
    if out.numel():
        call("acmix_patchwise_attention", (wide, of_pixels, out), patchwise_attention_sizes(wide, weights, size))
    return out.to(values.dtype)


def patchwise_attention_backward(
    grad: Tensor, values: Tensor, weights: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The gradients of values and of weights."""
    wide, of_pixels = parameter(values), parameter(weights)
    grad_values, grad_weights = torch.zeros_like(wide), torch.empty_like(of_pixels)
    if wide.numel():
        tensors = (parameter(grad), wide, of_pixels, grad_values, grad_weights)
        call("acmix_patchwise_attention_backward", tensors, patchwise_attention_sizes(wide, weights, size))
    return grad_values.to(values.dtype), grad_weights.to(weights.dtype)


def patchwise_attention_sizes(values: Tensor, weights: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
    """What `Shape` in `patchwise_attention.cpp` holds."""
    return (*values.shape, weights.shape[4], *size)


def adjacent(data: Tensor) -> Tensor:
    """Data whose last dimension lies number by number, as lanes are loaded; a copy only where it does not."""
    return data if data.stride(-1) == 1 or data.shape[-1] == 1 else data.contiguous()


def parameter(weight: Tensor) -> Tensor:
    """A parameter, or a map for a kernel that knows float32 alone, in float32 and row by row."""
    return weight.to(torch.float32).contiguous()


def optional(weight: Tensor | None) -> Tensor | None:
    """The same of a parameter that may be missing."""
    return None if weight is None else parameter(weight)


def call(name: str, tensors: Sequence[Tensor | None], sizes: Sequence[int], *numbers: float) -> None:
    """Calls a kernel: 1 for bfloat16, the tensors' addresses, the sizes, numbers, threads."""
    half = next(each.dtype for each in tensors if each is not None) == torch.bfloat16
    getattr(cpu_build.library(), name)(
        ctypes.c_int(half),
        *[POINTER(None if each is None else each.data_ptr()) for each in tensors],
        (ctypes.c_int64 * len(sizes))(*sizes),
        *map(ctypes.c_float, numbers),
        ctypes.c_int(torch.get_num_threads()),
    )
