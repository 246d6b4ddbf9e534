"""Local and patchwise attention and ACmix2d as loops over pixels: slow, and hard to get wrong.

Nothing here comes from `acmix`, which has to equal this. Only the batch and the channels are taken at once.

Shapes: B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def mirrored(at: int, side: int) -> int:
    """The pixel of a line of `side` pixels that is seen at `at`, when both ends are mirrors."""
    if side == 1:
        return 0
    while not 0 <= at < side:
        at = -at if at < 0 else 2 * (side - 1) - at
    return at


def local_attention(
    qkv: ArrayLike,
    position: ArrayLike | None = None,
    *,
    size: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    scale: float | None = None,
) -> Array:
    """(B, H, W, 3, N, D) and (H, W, D) -> (B, ceil(H/stride), ceil(W/stride), N·D)."""
    qkv = np.asarray(qkv)
    B, H, W, _, N, D = qkv.shape
    q, k, v = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]  # (B, H, W, N, D) each
    p = np.zeros((H, W, D)) if position is None else np.asarray(position)
    scale = D**-0.5 if scale is None else scale
    out = np.zeros((B, -(-H // stride), -(-W // stride), N, D))
    for top, y in enumerate(range(0, H, stride)):
        for left, x in enumerate(range(0, W, stride)):
            near = [
                (mirrored(y + dilation * (row - size[0] // 2), H), mirrored(x + dilation * (column - size[1] // 2), W))
                for row in range(size[0])
                for column in range(size[1])
            ]
            # p of the query stands here as in the paper, though it cancels in the softmax
            logits = np.array([scale * (q[:, y, x] * (k[:, j, i] + p[y, x] - p[j, i])).sum(-1) for j, i in near])
            weights = np.exp(logits - logits.max(0, initial=-np.inf))  # (K², B, N)
            weights /= weights.sum(0)
            for weight, (j, i) in zip(weights, near, strict=True):
                out[:, top, left] += weight[..., None] * v[:, j, i]
    return out.reshape(*out.shape[:3], N * D)


def patchwise_attention(values: ArrayLike, weights: ArrayLike, *, size: tuple[int, int]) -> Array:
    """(B, H, W, C) and (B, H, W, Ky·Kx, G) -> (B, H, W, C), channel by channel."""
    values, weights = np.asarray(values), np.asarray(weights)
    _, H, W, C = values.shape
    per_group = C // weights.shape[4]
    out = np.zeros_like(values)
    for y in range(H):
        for x in range(W):
            for row in range(size[0]):
                for column in range(size[1]):
                    at = mirrored(y + row - size[0] // 2, H), mirrored(x + column - size[1] // 2, W)
                    for c in range(C):
                        weight = weights[:, y, x, row * size[1] + column, c // per_group]
                        out[:, y, x, c] += weight * values[:, at[0], at[1], c]
    return out


def conv_path(
    pieces: list[Array], fc: Array, kernels: Array, *, stride: int = 1, dilation: int = 1, bias: Array | None = None
) -> Array:
    """3·N maps (B, H, W, D) -> (B, ceil(H/stride), ceil(W/stride), D·N)."""
    B, H, W, D = pieces[0].shape
    taps, k = fc.shape[0], kernels.shape[2]
    N = kernels.shape[0] // D
    S = kernels.reshape(D, N, taps, k, k)
    f = np.zeros((taps, B, H, W, D))
    for t in range(taps):
        for j, piece in enumerate(pieces):
            f[t] += fc[t, j] * piece
        if bias is not None:
            f[t] += bias[t]
    out = np.zeros((B, -(-H // stride), -(-W // stride), D, N))
    for top, y in enumerate(range(0, H, stride)):
        for left, x in enumerate(range(0, W, stride)):
            for row in range(k):
                for column in range(k):
                    j, i = y + dilation * (row - k // 2), x + dilation * (column - k // 2)
                    if 0 <= j < H and 0 <= i < W:
                        # Σ_t S[d·N + n, t] · f_t[d]
                        out[:, top, left] += np.einsum("dnt,tbd->bdn", S[..., row, column], f[:, :, j, i])
    return out.reshape(*out.shape[:3], D * N)


def acmix2d(
    state: Mapping[str, Array],
    x: Array,
    *,
    heads: int,
    attention_size: int = 7,
    stride: int = 1,
    dilation: int = 1,
) -> Array:
    """The whole layer, of the weights by name: (B, C_in, H, W) -> (B, C, ceil(H/stride), ceil(W/stride))."""
    _, _, H, W = x.shape
    q, k, v = (
        np.einsum("oi,bihw->bhwo", state[f"{name}.weight"][:, :, 0, 0], x) + state[f"{name}.bias"]
        for name in ("query", "key", "value")
    )  # (B, H, W, C) each
    C = q.shape[3]
    D = C // heads
    grid = np.zeros((H, W, 2))
    for row in range(H):
        for column in range(W):
            grid[row, column] = (
                -1 + 2 * column / (W - 1) if W > 1 else -1,
                -1 + 2 * row / (H - 1) if H > 1 else -1,
            )
    p = np.einsum("dg,hwg->hwd", state["position.weight"][:, :, 0, 0], grid) + state["position.bias"]  # (H, W, D)
    qkv = np.stack([each.reshape(*each.shape[:3], heads, D) for each in (q, k, v)], axis=3)  # (B, H, W, 3, N, D)
    attention = local_attention(qkv, p, size=(attention_size, attention_size), stride=stride, dilation=dilation)
    pieces = [each[..., n * D : (n + 1) * D] for each in (q, k, v) for n in range(heads)]
    conv = conv_path(pieces, state["conv_path.fc_weight"], state["conv_path.kernels"], stride=stride, dilation=dilation)
    out = state["rate_attention"] * attention + state["rate_conv"] * conv  # (B, Ho, Wo, C)
    return out.transpose(0, 3, 1, 2)
