"""The convolution path: pieces of q, k and v, mixed as a k×k convolution would.

Shapes
    B batch · H, W height and width of the map · P pieces of D channels · T maps made by fc
    ky, kx sides of the kernels · M output channels for each of the D · Ho, Wo of the output
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from acmix.ops.checks import autocast, expect, pair
from acmix.ops.conv_path.spec import Arguments, check
from acmix.ops.dispatch import run


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    *,
    stride: int = 1,
    dilation: int = 1,
    shift: int | Sequence[int] = 0,
    plus: Tensor | None = None,
    plus_bias: Tensor | None = None,
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
        plus: added to the output where it is written, which saves a pass over it: (B, Ho, Wo, M·D), or tokens
            (B, T + Ho·Wo, M·D), of which the first T get nothing of the path. In the dtype of `pieces`.
        plus_bias: (M·D,), added to every pixel and token.

    Returns:
        (B, Ho, Wo, M·D) with Ho = ceil(H/stride) and Wo = ceil(W/stride), or as `plus`; in the dtype of `pieces`.

    Raises:
        ValueError: the shapes do not fit each other, an even kernel, or a shift together with a stride.

    Source: ACmix, "Improved shift and summation"; `docs/equations.md` leads from each equation to its code.
    """
    path = checked(pieces, fc_weight, fc_bias, kernels, stride, dilation, shift, plus, plus_bias)
    return run("conv_path", path)


def checked(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    stride: int = 1,
    dilation: int = 1,
    shift: int | Sequence[int] = 0,
    plus: Tensor | None = None,
    plus_bias: Tensor | None = None,
) -> Arguments:
    """What `conv_path` hands to the operator: all that would not fit is refused, maps have autocast's dtype."""
    rows, columns = pair(shift, "shift")
    expect(pieces.dim() == 5, lambda: f"pieces has shape {tuple(pieces.shape)}; expected (B, H, W, P, D)")
    expect(kernels.dim() == 4, lambda: f"kernels has shape {tuple(kernels.shape)}; expected (M*D, T, ky, kx)")
    maps, rows_of_taps, columns_of_taps = kernels.shape[1:]
    expect(
        tuple(fc_weight.shape) == (maps, pieces.shape[3]),
        lambda: (
            f"fc_weight has shape {tuple(fc_weight.shape)}; expected ({maps}, {pieces.shape[3]}): kernels' T, pieces' P"
        ),
    )
    if fc_bias is not None:
        expect(
            fc_bias.shape == (maps,),
            lambda: f"fc_bias has shape {tuple(fc_bias.shape)}; expected ({maps},): kernels' T",
        )
    expect(
        rows_of_taps % 2 == 1 and columns_of_taps % 2 == 1,
        lambda: f"kernels are {rows_of_taps}×{columns_of_taps}; expected odd sides, so that there is a middle",
    )
    expect(
        kernels.shape[0] % pieces.shape[4] == 0,
        lambda: f"{kernels.shape[0]} output channels are no multiple of the pieces' {pieces.shape[4]} channels",
    )
    expect(stride >= 1 and dilation >= 1, lambda: f"stride={stride}, dilation={dilation}; both must be at least 1")
    if stride != 1:
        expect(rows == columns == 0, lambda: f"shift={shift} with stride={stride}; a shift goes with stride=1 only")
    path = Arguments(autocast(pieces), fc_weight, fc_bias, kernels, stride, dilation, (rows, columns))
    if plus is not None or plus_bias is not None:
        path = path._replace(plus=None if plus is None else autocast(plus), plus_bias=plus_bias)
        check(path)
    return path
