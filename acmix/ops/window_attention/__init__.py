"""Window attention: every pixel attends to the pixels of its window of a rolled map.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D · wh, ww sides of a window
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from acmix.ops.checks import autocast, expect, pair
from acmix.ops.dispatch import run
from acmix.ops.window_attention.spec import Arguments


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
    return run("window_attention", checked(qkv, bias_table, window, shift, scale))


def checked(
    qkv: Tensor,
    bias_table: Tensor | None,
    window: int | Sequence[int],
    shift: int | Sequence[int] = 0,
    scale: float | None = None,
) -> Arguments:
    """What `window_attention` hands to the operator: all that would not fit is refused, qkv has autocast's dtype."""
    (wh, ww), (rows, columns) = pair(window, "window"), pair(shift, "shift")
    expect(
        qkv.dim() == 6 and qkv.shape[3] == 3, lambda: f"qkv has shape {tuple(qkv.shape)}; expected (B, H, W, 3, N, D)"
    )
    expect(wh >= 1 and ww >= 1, lambda: f"window=({wh}, {ww}); both sides must be at least 1")
    entries = (2 * wh - 1) * (2 * ww - 1)
    if bias_table is not None:
        expect(
            bias_table.shape == (entries, qkv.shape[4]),
            lambda: (
                f"bias_table has shape {tuple(bias_table.shape)}; expected ({entries}, {qkv.shape[4]}): "
                f"differences of positions in a ({wh}, {ww}) window, heads"
            ),
        )
    factor = float(qkv.shape[5] ** -0.5 if scale is None else scale)
    return Arguments(autocast(qkv), bias_table, (wh, ww), (rows, columns), factor)
