"""ACmix2d in graphs that leave PyTorch: few nodes, and no size that is fixed.

Shapes
    B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D · P = 3·N pieces
    K side of a neighbourhood · O = K² offsets · k side of the convolution
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.leaving import fresh


def acmix_map(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Callable[[Tensor], Tensor] | None,
    kernels: Tensor | None,
    *,
    heads: int,
    head_dim: int,
    size: int,
    stride: int,
    dilation: int,
    rate: Tensor | None = None,
) -> Tensor:
    """rate · local attention + grouped convolution, both of the same q, k and v.

    The neighbours of all pixels exist at once: 2·K²·C numbers a pixel of the output. At 224 pixels that is 79 MB for an
    image in a layer of ResNet's first stage, in float32. One node of the graph finds them: a sampler of the nearest
    pixel.

    Args:
        q, k, v: (B, C, H, W) each, head-major.
        position: from x and y of every pixel, (1, 2, H, W), to p, (1, D, H, W); None for a convolution alone.
        kernels: (C, P, k, k), of the pieces of each channel, d-major; None for attention alone.
        heads: N.
        head_dim: D.
        size: K.
        stride, dilation: of both.
        rate: (1,); None for 1.

    Returns:
        (B, C, Ho, Wo).
    """
    # every size is written out: of a −1, torch.export asks what it divides by
    batch, conv = q.shape[0], None
    if kernels is not None:
        # d-major: one node, where a transposition between two views would be five
        order = [piece * head_dim + d for d in range(head_dim) for piece in range(3 * heads)]
        pieces = torch.cat([q, k, v], 1).index_select(1, torch.tensor(order, device=q.device))  # (B, D·P, H, W)
        side = dilation * (kernels.shape[2] // 2)
        conv = F.conv2d(pieces, kernels, None, stride, (side, side), dilation, groups=head_dim)  # (B, C, Ho, Wo)
    if position is None:
        assert conv is not None
        return conv
    place, half = places(q)
    p = position((place - 1).to(q.dtype))
    query = q
    if stride > 1:
        # no slices: to torch.export, another way than a convolution's to count outputs is another size
        query, place = F.max_pool2d(q, 1, stride), F.max_pool2d(place, 1, stride)
    rows, columns = query.shape[2:]
    pixels = rows * columns
    around = mirrored(place.reshape(1, 2, pixels, 1) + offsets(size, dilation, place) / half)  # (1, 2, Ho·Wo, O)
    around = around.permute(0, 2, 3, 1).expand(batch, -1, -1, -1)
    near = torch.cat([k - torch.cat([p] * heads, 1), v], 1).to(around.dtype)  # (B, 2·C, H, W)
    near = F.grid_sample(near, around, mode="nearest", padding_mode="border", align_corners=True)
    near = near.view(batch, 2, heads, head_dim, pixels, size * size)  # (B, 2, N, D, Ho·Wo, O)
    # of a part of a larger tensor, torch.export would ask how many images there are
    query = fresh(query).view(batch, heads, head_dim, pixels, 1)
    weights = ((query * near[:, 0]).sum(2, keepdim=True) * head_dim**-0.5).softmax(4)  # (B, N, 1, Ho·Wo, O)
    out = (weights * near[:, 1]).sum(4).to(q.dtype)  # (B, N, D, Ho·Wo)
    out = out.view(batch, heads * head_dim, rows, columns)
    if rate is not None:
        out = rate * out
    return out if conv is None else out + conv


def places(x: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of every pixel of a map (B, C, H, W), from 0 to 2, and half of how many pixels lie between the two.

    Returns:
        (1, 2, H, W) and (1, 2, 1, 1), in float32 at least. A side of one pixel counts as one of two, and has the first.
    """
    # sums and a maximum, not the sizes themselves, of which an exporter would make many nodes
    dtype = torch.promote_types(x.dtype, torch.float32)
    ones = torch.ones(1, 1, x.shape[2], x.shape[3], dtype=dtype, device=x.device)
    count = torch.cat([ones.cumsum(3), ones.cumsum(2)], 1) - 1  # the column and the row
    half = (count.amax((2, 3), keepdim=True) / 2).clamp(min=0.5)
    return count / half, half


def mirrored(place: Tensor) -> Tensor:
    """Places from 0 to 2, mirrored at both ends as often as it takes: from −1 to 1."""
    # the sampler mirrors too, but torch.export would ask it whether a side is one pixel
    return 1 - (place.abs().fmod(4) - 2).abs()


def offsets(size: int, dilation: int, like: Tensor) -> Tensor:
    """Columns and rows to a pixel's neighbours, row by row: (2, 1, O)."""
    line = [dilation * (o - size // 2) for o in range(size)]
    both = [line * size, [o for o in line for _ in range(size)]]
    return torch.tensor(both, dtype=like.dtype, device=like.device)[:, None]
