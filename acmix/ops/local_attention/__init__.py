"""Local attention: every pixel attends to the pixels around it.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D
    Ky, Kx sides of a neighbourhood
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from acmix.ops.checks import autocast, expect, pair
from acmix.ops.dispatch import run
from acmix.ops.local_attention.spec import Arguments


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
    return run("local_attention", checked(qkv, position, size, stride, dilation, scale))


def checked(
    qkv: Tensor,
    position: Tensor | None,
    size: int | Sequence[int],
    stride: int = 1,
    dilation: int = 1,
    scale: float | None = None,
) -> Arguments:
    """What `local_attention` hands to the operator: all that would not fit is refused, qkv has autocast's dtype."""
    expect(
        qkv.dim() == 6 and qkv.shape[3] == 3, lambda: f"qkv has shape {tuple(qkv.shape)}; expected (B, H, W, 3, N, D)"
    )
    rows, columns = pair(size, "size")
    expect(
        rows >= 1 and rows % 2 == 1 and columns >= 1 and columns % 2 == 1,
        lambda: f"size={size}; expected odd sides",
    )
    expect(stride >= 1 and dilation >= 1, lambda: f"stride={stride}, dilation={dilation}; both must be at least 1")
    if position is not None and tuple(position.shape) != (*qkv.shape[1:3], qkv.shape[5]):
        # written only where it is wrong: an open size in a message would be fixed by torch.compile
        raise ValueError(f"position must have shape (H, W, D) = ({qkv.shape[1]}, {qkv.shape[2]}, {qkv.shape[5]})")
    scale = float(qkv.shape[5] ** -0.5 if scale is None else scale)
    return Arguments(autocast(qkv), position, (rows, columns), stride, dilation, scale)
