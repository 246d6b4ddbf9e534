"""Patchwise attention: a sum over the pixels around each pixel, with weights of any making.

Shapes
    B batch · H, W height and width of the map · C channels in G groups · Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from acmix.errors import UsageError
from acmix.ops.checks import autocast, expect, pair
from acmix.ops.dispatch import run
from acmix.ops.patchwise_attention.spec import Arguments


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
    expect(values.dim() == 4, lambda: f"values has shape {tuple(values.shape)}; expected (B, H, W, C)")
    expect(
        rows >= 1 and rows % 2 == 1 and columns >= 1 and columns % 2 == 1,
        lambda: f"size={size}; expected odd sides",
    )
    fits = weights.dim() == 5 and weights.shape[3] == rows * columns and weights.shape[:3] == values.shape[:3]
    if not fits or values.shape[3] % weights.shape[4]:
        # written only where it is wrong: an open size in a message would be fixed by torch.compile
        raise UsageError(
            f"weights has shape {tuple(weights.shape)} for values of {tuple(values.shape)}; "
            f"expected (B, H, W, {rows * columns}, G) with a G that divides the channels"
        )
    values = autocast(values)
    return run("patchwise_attention", Arguments(values, weights.to(values.dtype), (rows, columns)))
