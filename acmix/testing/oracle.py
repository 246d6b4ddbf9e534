"""The operators as loops over numbers, from section 1 of the design alone: slow, and hard to get wrong.

Nothing here comes from the operators' `reference` modules, which have to equal this.

Shapes
    B batch · H, W map · N heads · D channels a head · P pieces · T maps
    M outputs a channel · ky, kx sides of a kernel
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from acmix.ops.cases import Case
from acmix.testing import oracle_local


def expected(case: Case, tensors: dict[str, Tensor]) -> Tensor:
    """What the loops make of a case's tensors, in float64."""
    loops = {
        "conv_path": conv_path,
        "window_attention": window_attention,
        "local_attention": oracle_local.local_attention,
        "patchwise_attention": oracle_local.patchwise_attention,
    }
    exact = {name: tensor.detach().double() for name, tensor in tensors.items()}
    return torch.as_tensor(loops[case.operator](**exact, **case.settings))


def conv_path(
    pieces: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor | None,
    kernels: Tensor,
    *,
    stride: int = 1,
    dilation: int = 1,
    shift: tuple[int, int] = (0, 0),
    plus: Tensor | None = None,
    plus_bias: Tensor | None = None,
) -> Tensor:
    """(B, H, W, P, D) -> (B, ceil(H/stride), ceil(W/stride), M·D), or as `plus`, float64."""
    B, H, W, P, D = pieces.shape
    T, ky, kx = kernels.shape[1:]
    M = kernels.shape[0] // D
    piece, fc, S = pieces.double().tolist(), fc_weight.double().tolist(), kernels.double().tolist()
    bias = [0.0] * T if fc_bias is None else fc_bias.double().tolist()
    rows, columns = math.ceil(H / stride), math.ceil(W / stride)
    out = torch.zeros(B, rows, columns, M * D, dtype=torch.float64)

    def pixel(b: int, y: int, x: int) -> list[list[float]]:
        """P lists of D numbers at (y, x) of the map rolled by −shift."""
        return piece[b][(y + shift[0]) % H][(x + shift[1]) % W]

    def mapped(b: int, t: int, d: int, y: int, x: int) -> float:
        """f_t[d] at (y, x) of the rolled map; zero outside, where not even the bias is seen."""
        if not (0 <= y < H and 0 <= x < W):
            return 0.0
        F = pixel(b, y, x)
        return sum(fc[t][p] * F[p][d] for p in range(P)) + bias[t]

    for b in range(B):
        f = {
            (t, d, y, x): mapped(b, t, d, y, x)
            for t in range(T)
            for d in range(D)
            for y in range(-dilation * ky, H + dilation * ky)
            for x in range(-dilation * kx, W + dilation * kx)
        }
        for y in range(rows):
            for x in range(columns):
                # only stride 1 goes with a shift, so that the output's pixels are the input's
                back_y, back_x = ((y + shift[0]) % H, (x + shift[1]) % W) if stride == 1 else (y, x)
                for d in range(D):
                    for m in range(M):
                        total = 0.0
                        for t in range(T):
                            for u in range(ky):
                                for v in range(kx):
                                    from_y = y * stride + (u - ky // 2) * dilation
                                    from_x = x * stride + (v - kx // 2) * dilation
                                    total += S[d * M + m][t][u][v] * f[t, d, from_y, from_x]
                        out[b, back_y, back_x, d * M + m] = total
    if plus is not None and plus.dim() == 3:
        tokens = torch.zeros(plus.shape, dtype=torch.float64)
        tokens[:, plus.shape[1] - rows * columns :] = out.view(B, rows * columns, M * D)
        out = tokens
    for added in (plus, plus_bias):
        out = out if added is None else out + added.double()
    return out


def window_attention(
    qkv: Tensor,
    bias_table: Tensor | None = None,
    *,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
    scale: float | None = None,
) -> Tensor:
    """(B, H, W, 3, N, D) -> (B, H, W, N·D), float64: only pixels of the map exist here, so no padding is ever seen."""
    B, H, W, _, N, D = qkv.shape
    scale = 1 / math.sqrt(D) if scale is None else scale
    data = qkv.double().tolist()
    table = None if bias_table is None else bias_table.double().tolist()
    out = torch.zeros(B, H, W, N * D, dtype=torch.float64)
    rolled = [(y, x) for y in range(H) for x in range(W)]

    def came_from(at: int, step: int, side: int) -> tuple[int, int]:
        """How often a rolled position passed the seam, and its place in the map."""
        return divmod(at + step, side)

    for b in range(B):
        for y, x in rolled:
            laps_y, from_y = came_from(y, shift[0], H)
            laps_x, from_x = came_from(x, shift[1], W)
            seen = [
                (j, i)
                for j, i in rolled
                if (j // window[0], i // window[1]) == (y // window[0], x // window[1])
                and came_from(j, shift[0], H)[0] == laps_y
                and came_from(i, shift[1], W)[0] == laps_x
            ]
            for n in range(N):
                q = data[b][from_y][from_x][0][n]
                logits, values = [], []
                for j, i in seen:
                    there = data[b][came_from(j, shift[0], H)[1]][came_from(i, shift[1], W)[1]]
                    logit = scale * sum(q[d] * there[1][n][d] for d in range(D))
                    if table is not None:
                        entry = (y - j + window[0] - 1) * (2 * window[1] - 1) + x - i + window[1] - 1
                        logit += table[entry][n]
                    logits.append(logit)
                    values.append(there[2][n])
                top = max(logits)
                weights = [math.exp(logit - top) for logit in logits]
                for d in range(D):
                    mean = sum(w * v[d] for w, v in zip(weights, values, strict=True)) / sum(weights)
                    out[b, from_y, from_x, n * D + d] = mean
    return out
