"""ACmix2d in graphs that leave PyTorch: few nodes, and no size that is fixed.

Shapes
    B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D · P = 3·N pieces
    K side of a neighbourhood · O = K² offsets · k side of the convolution
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.leaving import fresh, is_known


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
    image in a layer of ResNet's first stage, in float32. One node of the graph copies them, a row of D numbers each.

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
    place, period = places(q)
    p = position((4 * place / period - 1).to(q.dtype))
    query = q
    if stride > 1:
        # no slices: to torch.export, another way than a convolution's to count outputs is another size
        query, place = F.max_pool2d(q, 1, stride), F.max_pool2d(place, 1, stride)
    rows, columns = query.shape[2:]
    pixels, all_pixels = inferred(rows * columns), inferred(q.shape[2] * q.shape[3])
    if is_known(q.shape[2]) and is_known(q.shape[3]):
        index = known_around(q.shape[2], q.shape[3], size, stride, dilation, q.device)
    else:
        index = open_around(place.view(1, 2, -1, 1), period, q.shape[3], size, dilation)
    # The channels of a head side by side: a copy for every neighbour, not every number. Both are fresh, as of a part
    # of a larger tensor, or one that lies in another order, torch.export would ask how many images or pixels there are
    keys, values = (
        x.to(place.dtype)
        .view(batch, heads, head_dim, all_pixels, 1)
        .transpose(2, 3)
        .index_select(2, index)
        .view(batch, heads, pixels, size * size, head_dim)  # (B, N, Ho·Wo, O, D)
        for x in (k - torch.cat([p] * heads, 1), fresh(v))
    )
    query = fresh(fresh(query).view(batch, heads, head_dim, pixels, 1).transpose(2, 3)).to(place.dtype)
    weights = ((keys @ query) * head_dim**-0.5).transpose(3, 4).softmax(4)  # (B, N, Ho·Wo, 1, O)
    out = fresh((weights @ values).transpose(2, 4)).to(q.dtype)  # (B, N, D, 1, Ho·Wo)
    out = out.view(batch, heads * head_dim, rows, columns)
    if rate is not None:
        out = rate * out
    return out if conv is None else out + conv


def inferred(size: Any) -> Any:
    """A size of a view that follows from its others: −1 in ONNX, where it costs no nodes; an empty batch needs it."""
    return -1 if torch.onnx.is_in_onnx_export() else size


def places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of every pixel of a map (B, C, H, W), and after how many steps a mirrored line is back at one.

    Returns:
        (1, 2, H, W) and (1, 2, 1, 1), in float32 at least, which counts 2^24 pixels. For a line of one pixel, 1.
    """
    # sums and a maximum, not the sizes themselves, of which an exporter would make many nodes
    dtype = torch.promote_types(x.dtype, torch.float32)
    ones = torch.ones(1, 1, x.shape[2], x.shape[3], dtype=dtype, device=x.device)
    place = torch.cat([ones.cumsum(3), ones.cumsum(2)], 1) - 1
    return place, (2 * place.amax((2, 3), keepdim=True)).clamp(min=1)


def open_around(place: Tensor, period: Tensor, width: Any, size: int, dilation: int) -> Tensor:
    """The pixels y·W + x around pixels of a map of any size, mirrored at the border as often as it takes.

    Args:
        place: (1, 2, Ho·Wo, 1), column and row of each.
        period: (1, 2, 1, 1), as of `places`.
        width: W.

    Returns:
        (Ho·Wo·O,), offsets row by row.
    """
    line = steps(size, dilation)
    offsets = [line * size, [step for step in line for _ in range(size)]]
    place = (place + torch.tensor(offsets, dtype=place.dtype, device=place.device)[:, None]).abs().fmod(period)
    column, row = torch.minimum(place, period - place).long().chunk(2, 1)  # (1, 1, Ho·Wo, O) each
    return (row * width + column).flatten()


def known_around(height: int, width: int, size: int, stride: int, dilation: int, device: torch.device) -> Tensor:
    """`open_around` of a map whose size is known: (Ho·Wo·O,), the sum of a table of rows and one of columns."""
    tables = []
    for side, factor in ((height, width), (width, 1)):
        period = max(2 * side - 2, 1)
        around = [[(at + step) % period for step in steps(size, dilation)] for at in range(0, side, stride)]
        table = [[factor * min(each, period - each) for each in line] for line in around]
        tables.append(torch.tensor(table, device=device))  # (Ho, K), (Wo, K)
    return (tables[0][:, None, :, None] + tables[1][:, None]).flatten()


def steps(size: int, dilation: int) -> list[int]:
    """Pixels from a pixel to those of its neighbourhood, in one direction."""
    return [dilation * (o - size // 2) for o in range(size)]
