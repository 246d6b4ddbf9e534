"""Window attention for graphs that leave PyTorch: few nodes, and masks that follow the size of the map.

One gather rolls the map, fills it up and cuts it into windows; another puts it together again. A place that only fills
up reads some pixel, which no other place sees.

Shapes
    B batch · H, W height and width of the map · N heads · D channels a head · C = N·D
    wh, ww sides of a window · L = wh·ww pixels in it · Gh, Gw windows in a column and a row of them · G = Gh·Gw
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.ops.leaving import as_number, gathered, surely
from acmix.ops.window_attention.spec import Arguments


def forward(arguments: Arguments) -> Tensor:
    """softmax(scale·q·kᵀ + bias + mask)·v in every window of the rolled map; see `acmix.ops.window_attention`."""
    qkv, bias_table, window, shift, scale = arguments
    height, width = qkv.shape[1:3]
    rows = line(height, window[0], shift[0], qkv.device)
    columns = line(width, window[1], shift[1], qkv.device)

    pixel = rows.pixel[:, None, :, None] * width + columns.pixel[:, None]  # (Gh, Gw, wh, ww)
    pixel = pixel.flatten(2).flatten(0, 1)  # (G, L)
    q, k, v = gathered(qkv, pixel).permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, G, N, L, D) each
    logits = (q * scale) @ k.transpose(-1, -2)  # (B, G, N, L, L)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bias_table is not None:
        index = torch.tensor(table_rows(window), device=qkv.device)
        logits = logits + bias_table.to(logits.dtype)[index].permute(2, 0, 1)  # (N, L, L)
    if not (rows.plain and columns.plain):
        kind = rows.kind[:, None, :, None] * 4 + columns.kind[:, None]  # (Gh, Gw, wh, ww)
        kind = kind.flatten(2).flatten(0, 1)  # (G, L)
        hidden = kind[:, None, :, None] != kind[:, None, None]  # (G, 1, L, L)
        logits = logits.masked_fill(hidden, float("-inf"))
    out = (logits.softmax(-1).to(v.dtype) @ v).transpose(2, 3).flatten(3)  # (B, G, L, C)

    # pixel (y, x) lies at (y mod wh, x mod ww) of window (y div wh, x div ww)
    place = rows.window[:, None] * columns.count + columns.window  # (H, W)
    place = place * (window[0] * window[1]) + (rows.inside[:, None] * window[1] + columns.inside)
    return out.flatten(1, 2)[:, place]  # (B, H, W, C)


class Line(NamedTuple):
    """The rows of a map, or its columns, in their windows: `length` of them in each of `count` windows.

    Args:
        pixel: (count, length), which row of the map stands there.
        kind: (count, length), rows see each other where they are of one kind: neighbours before the roll, or fillers.
        plain: whether all are of one kind, at every size that the graph is open for.
        count: windows.
        window: (side,), the window that each row of the map stands in.
        inside: (side,), its place there.
    """

    pixel: Tensor
    kind: Tensor
    plain: bool
    count: Any
    window: Tensor
    inside: Tensor


def line(side: Any, length: int, step: Any, device: torch.device) -> Line:
    """The rows or columns of a map of that side, rolled by −step."""
    count = (side + length - 1) // length
    plain = surely(step == 0) and surely(side % length == 0)
    number = as_number(side, device)
    if isinstance(number, Tensor) and isinstance(step, int):
        step = torch.full((1,), step, device=device)
    step = as_number(step, device) % number
    place = torch.arange(count * length, device=device)
    rolled = place + step
    kind = (rolled >= number).long() + 2 * (place >= number)
    back = (torch.arange(side, device=device) + (number - step)) % number
    return Line(
        pixel=(rolled % number).view(-1, length),
        kind=kind.view(-1, length),
        plain=plain,
        count=count,
        window=back.div(length, rounding_mode="floor"),
        inside=back % length,
    )


@lru_cache(maxsize=64)
def table_rows(window: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """`relative_position_index` as plain numbers: a tensor made while a graph is must not be kept."""
    places = [(y, x) for y in range(window[0]) for x in range(window[1])]
    return tuple(
        tuple((y - v + window[0] - 1) * (2 * window[1] - 1) + x - u + window[1] - 1 for v, u in places)
        for y, x in places
    )
