"""Sides of windows, stage by stage, and tables of positions for new ones."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import nn

from acmix.errors import UsageError
from acmix.layers import WindowAttention
from acmix.ops import pair

Size = tuple[int, int]


def windows_of(window_size: Any, stages: int) -> list[Size]:
    """(rows, columns) of each stage's windows.

    Args:
        window_size: one number or pair for all stages, or a sequence of such with one for each.
        stages: how many there are; where there are two, two numbers are a pair.

    Raises:
        UsageError: another number of stages, or a window without pixels.
    """
    one = isinstance(window_size, int) or (len(window_size) == 2 and all(isinstance(side, int) for side in window_size))
    each = [window_size] * stages if one else list(window_size)  # pyright: ignore[reportArgumentType]
    if len(each) != stages:
        raise UsageError(
            f"window_size={window_size!r} has {len(each)} entries; expected one for each of {stages} stages"
        )
    found = [pair(window) for window in each]
    if min(min(window) for window in found) < 1:
        raise UsageError(f"window={found[0] if one else window_size!r}; both sides must be at least 1")
    return found


def windows_from_ratio(window_ratio: int | Sequence[int], grid: Size, stages: int) -> list[Size]:
    """The grid of patches divided by a number, or by one for each stage; at least one pixel.

    Raises:
        UsageError: another number of stages, or a number below 1.
    """
    ratios = [window_ratio] * stages if isinstance(window_ratio, int) else list(window_ratio)
    if len(ratios) != stages or min(ratios) < 1:
        raise UsageError(f"window_ratio={window_ratio!r}; expected a number from 1, or one for each of {stages} stages")
    return [(max(1, grid[0] // ratio), max(1, grid[1] // ratio)) for ratio in ratios]


def scaled_windows(windows: list[Size], grid: Size, new_grid: Size) -> list[Size]:
    """Windows that are to a new grid of patches what the old ones are to theirs."""
    return [
        (max(1, rows * new_grid[0] // grid[0]), max(1, columns * new_grid[1] // grid[1])) for rows, columns in windows
    ]


def sides_of_stages(grid: Size, stages: int) -> list[Size]:
    """(H, W) of each stage's map; every stage but the first halves it, rounded up."""
    found = [grid]
    while len(found) < stages:
        rows, columns = found[-1]
        found.append((-(-rows // 2), -(-columns // 2)))
    return found


def refit(attention: WindowAttention, window: Size) -> None:
    """Gives an attention windows of another size; its table of positions is interpolated as timm does it."""
    if window == attention.window:
        return
    table = attention.relative_position_bias_table if attention.has_attention else None
    if table is not None:
        entries = ((2 * window[0] - 1) * (2 * window[1] - 1), attention.heads)
        # timm before 1.0.31 knows square windows alone
        old = "old_window_size" in signature(resize_rel_pos_bias_table).parameters
        more = dict(old_window_size=attention.window) if old else {}
        with torch.no_grad():
            resized = resize_rel_pos_bias_table(table, window, entries, **more).to(table)
        attention.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
    attention.window = window
