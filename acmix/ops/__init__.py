"""ACmix's operators: tensors in, tensors out.

Each is a `torch.library` operator (`torch.ops.acmix.…`) with a shape function and a gradient, so it goes through
`torch.compile(fullgraph=True)`, `torch.export`, meta tensors and autocast as one node. Which kernel computes it is
decided when it runs: see `use` and `explain`. A graph meant for another runtime (`torch.jit.trace`,
`torch.onnx.export`) holds an operator's definition instead, in PyTorch's own operators.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D
    P pieces of D channels · T maps made by fc · ky, kx sides of the kernels · M output channels for each of the D
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acmix.errors import UsageError
from acmix.ops import library as _library  # noqa: F401  registers torch.ops.acmix
from acmix.ops import local, patchwise, reference
from acmix.ops.dispatch import explain, use

__all__ = ["conv_path", "explain", "local_attention", "patchwise_attention", "use", "window_attention"]


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    *,
    stride: int = 1,
    dilation: int = 1,
    shift: int | Sequence[int] = 0,
) -> Tensor:
    """Mixes the pieces of q, k and v as a k×k convolution would.

        f_t          = Σ_p fc[t, p]·F_p + b_t                      t = 1 … T
        out[d·M + m] = Σ_t S[d·M + m, t] ⋆ f_t[d]                  ⋆: zero-padded k×k correlation

    Args:
        pieces: (B, H, W, P, D); F_p is `pieces[..., p, :]`. A projection's output (B, H, W, 3·C), head-major, viewed
            as (B, H, W, 3·N, D) is this; any strides will do.
        fc_weight: (T, P), shared by all channels and pixels.
        fc_bias: (T,) or None.
        kernels: S, (M·D, T, ky, kx) with odd sides, often the same; output channels run d-major, unlike an
            attention's.
        stride: output pixels lie at every stride-th input pixel.
        dilation: pixels between two taps of a kernel.
        shift: (rows, columns), or one number for both; the map is rolled by −shift first, so that it is zero-padded
            at the rolled border and neighbours meet across the seam, and rolled back after. Released Swin weights
            were trained so.

    Returns:
        (B, ceil(H/stride), ceil(W/stride), M·D) in the dtype of `pieces`.

    Raises:
        ValueError: the shapes do not fit each other, an even kernel, or a shift together with a stride.

    Source: ACmix, "Improved shift and summation"; `docs/equations.md` leads from each equation to its code.
    """
    rows, columns = pair(shift, "shift")
    expect(pieces.dim() == 5, f"pieces has shape {tuple(pieces.shape)}; expected (B, H, W, P, D)")
    expect(kernels.dim() == 4, f"kernels has shape {tuple(kernels.shape)}; expected (M*D, T, ky, kx)")
    maps, rows_of_taps, columns_of_taps = kernels.shape[1:]
    expect(
        tuple(fc_weight.shape) == (maps, pieces.shape[3]),
        f"fc_weight has shape {tuple(fc_weight.shape)}; expected ({maps}, {pieces.shape[3]}): kernels' T, pieces' P",
    )
    if fc_bias is not None:
        expect(fc_bias.shape == (maps,), f"fc_bias has shape {tuple(fc_bias.shape)}; expected ({maps},): kernels' T")
    expect(
        rows_of_taps % 2 == 1 and columns_of_taps % 2 == 1,
        f"kernels are {rows_of_taps}×{columns_of_taps}; expected odd sides, so that there is a middle",
    )
    expect(
        kernels.shape[0] % pieces.shape[4] == 0,
        f"{kernels.shape[0]} output channels are no multiple of the pieces' {pieces.shape[4]} channels",
    )
    expect(stride >= 1 and dilation >= 1, f"stride={stride}, dilation={dilation}; both must be at least 1")
    if stride != 1:
        expect(rows == columns == 0, f"shift={shift} with stride={stride}; a shift goes with stride=1 only")
    operator = reference.conv_path if leaves_pytorch() else torch.ops.acmix.conv_path
    return operator(autocast(pieces), fc_weight, fc_bias, kernels, stride, dilation, (rows, columns))


def window_attention(
    qkv: Tensor,
    bias_table: Tensor | None = None,
    *,
    window: int | Sequence[int],
    shift: int | Sequence[int] = 0,
    scale: float | None = None,
) -> Tensor:
    """Lets every pixel attend to the pixels of its window.

        out = softmax(scale·q·kᵀ + B + mask)·v      in each window of the map rolled by −shift; then rolled back

    Maps whose sides are no multiple of the window are padded below and to the right after the roll. Padding is never
    seen by a pixel, nor are pixels that only the roll made neighbours.

    Args:
        qkv: (B, H, W, 3, N, D); a projection's output (B, H, W, 3·C), head-major, viewed so. Any strides will do.
        bias_table: ((2·wh − 1)·(2·ww − 1), N), B's entry for each difference of positions; None for no bias.
        window: (wh, ww) in pixels, or one number for both.
        shift: (rows, columns), or one number for both; as a roll, it counts modulo the map's sides.
        scale: what q·k is multiplied by; D^-½ by default.

    Returns:
        (B, H, W, C), channels head-major, in the dtype of `qkv`. The softmax is taken in float32 or better.

    Raises:
        ValueError: the shapes do not fit each other, or a window without pixels.

    Source: Swin Transformer, "Shifted window based self-attention"; padding that is not attended is ours.
    """
    (wh, ww), (rows, columns) = pair(window, "window"), pair(shift, "shift")
    expect(qkv.dim() == 6 and qkv.shape[3] == 3, f"qkv has shape {tuple(qkv.shape)}; expected (B, H, W, 3, N, D)")
    expect(wh >= 1 and ww >= 1, f"window=({wh}, {ww}); both sides must be at least 1")
    entries = (2 * wh - 1) * (2 * ww - 1)
    if bias_table is not None:
        expect(
            bias_table.shape == (entries, qkv.shape[4]),
            f"bias_table has shape {tuple(bias_table.shape)}; expected ({entries}, {qkv.shape[4]}): "
            f"differences of positions in a ({wh}, {ww}) window, heads",
        )
    scale = qkv.shape[5] ** -0.5 if scale is None else scale
    return torch.ops.acmix.window_attention(autocast(qkv), bias_table, [wh, ww], [rows, columns], scale)


def local_attention(
    qkv: Tensor,
    position: Tensor | None = None,
    *,
    size: int | Sequence[int],
    stride: int = 1,
    dilation: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Lets every stride-th pixel attend to the Ky×Kx pixels around it.

        out_i = softmax_j(scale·q_i·(k_j − p_j))·v_j      j in the neighbourhood of i, mirrored at the border

    A logit with the relative position p_i − p_j gives the same softmax: p_i is the same for all j. The mirror goes by
    index, so a map may be smaller than the neighbourhood.

    Args:
        qkv: (B, H, W, 3, N, D), of any strides.
        position: p, (H, W, D), shared by heads; None for no position.
        size: (Ky, Kx) in pixels, or one number for both; odd. (1, K) makes a map of one row a sequence.
        stride: queries lie at every stride-th pixel, and neighbourhoods around them.
        dilation: pixels between two neighbours.
        scale: what the product is multiplied by; D^-½ by default.

    Returns:
        (B, ceil(H/stride), ceil(W/stride), C), channels head-major, in the dtype of `qkv`. The softmax is taken in
        float32 or better.

    Raises:
        ValueError: the shapes do not fit each other, or an even size.

    Source: ACmix's ResNet form; the position term is the released code's.
    """
    expect(qkv.dim() == 6 and qkv.shape[3] == 3, f"qkv has shape {tuple(qkv.shape)}; expected (B, H, W, 3, N, D)")
    rows, columns = pair(size, "size")
    expect(
        rows >= 1 and rows % 2 == 1 and columns >= 1 and columns % 2 == 1,
        f"size={size}: a neighbourhood has odd sides, so that it has a middle",
    )
    expect(stride >= 1 and dilation >= 1, f"stride={stride}, dilation={dilation}; both must be at least 1")
    if position is not None and tuple(position.shape) != (*qkv.shape[1:3], qkv.shape[5]):
        # written only where it is wrong: an open size in a message would be fixed by torch.compile
        raise ValueError(f"position must have shape (H, W, D) = ({qkv.shape[1]}, {qkv.shape[2]}, {qkv.shape[5]})")
    scale = float(qkv.shape[5] ** -0.5 if scale is None else scale)
    operator = local.local_attention if leaves_pytorch() else torch.ops.acmix.local_attention
    return operator(autocast(qkv), position, (rows, columns), stride, dilation, scale)


def patchwise_attention(values: Tensor, weights: Tensor, *, size: int | Sequence[int]) -> Tensor:
    """Adds up the Ky×Kx pixels around each pixel, with weights of its own for each group of channels.

        out_i[g] = Σ_j w_ij[g] · v_j[g]      j in the neighbourhood of i, mirrored at the border

    The weights are used as they are, with no softmax. The mirror goes by index, so a map may be smaller than the
    neighbourhood.

    Args:
        values: v, (B, H, W, C), of any strides.
        weights: (B, H, W, Ky·Kx, G), neighbours row by row; group g holds channels g·C/G … (g + 1)·C/G − 1.
        size: (Ky, Kx) in pixels, or one number for both; odd.

    Returns:
        (B, H, W, C) in the dtype of `values`. Sums are taken in float32 or better.

    Raises:
        ValueError: the shapes do not fit each other, or an even size.

    Source: SAN (CVPR 2020), the aggregation of its patchwise and pairwise attention.
    """
    rows, columns = pair(size, "size")
    expect(values.dim() == 4, f"values has shape {tuple(values.shape)}; expected (B, H, W, C)")
    expect(
        rows >= 1 and rows % 2 == 1 and columns >= 1 and columns % 2 == 1,
        f"size={size}: a neighbourhood has odd sides, so that it has a middle",
    )
    fits = weights.dim() == 5 and weights.shape[3] == rows * columns and weights.shape[:3] == values.shape[:3]
    if not fits or values.shape[3] % weights.shape[4]:
        # written only where it is wrong: an open size in a message would be fixed by torch.compile
        raise UsageError(
            f"weights has shape {tuple(weights.shape)} for values of {tuple(values.shape)}; "
            f"expected (B, H, W, {rows * columns}, G) with a G that divides the channels"
        )
    values = autocast(values)
    operator = patchwise.patchwise_attention if leaves_pytorch() else torch.ops.acmix.patchwise_attention
    return operator(values, weights.to(values.dtype), (rows, columns))


def pair(value: int | Sequence[int], name: str = "size") -> tuple[int, int]:
    """(rows, columns) of a number or a pair."""
    if isinstance(value, (tuple, list)):
        expect(len(value) == 2, f"{name}={value}; expected a number or two")
        rows, columns = value
        return rows, columns
    return value, value  # type: ignore[return-value]


def expect(holds: bool, message: str) -> None:
    """Refuses arguments that do not fit."""
    if not holds:
        raise UsageError(message)


def leaves_pytorch() -> bool:
    """Whether a graph is being made for a runtime that knows nothing of our operators."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def autocast(data: Tensor) -> Tensor:
    """Data in autocast's dtype where autocast is on, as a convolution would take it; parameters keep their own."""
    device = data.device.type
    if device != "meta" and data.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return data.to(torch.get_autocast_dtype(device))
    return data
