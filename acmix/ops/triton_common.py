"""What the GPU kernels share: sizes of blocks, a choice of launch settings, index arithmetic.

Triton reads TRITON_INTERPRET when a kernel is defined, so it has to be set before this module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def power_of_two(number: int, least: int = 1, most: int = 1 << 30) -> int:
    """The smallest power of two that is no less than a number, within bounds."""
    return min(max(triton.next_power_of_2(max(number, 1)), least), most)


def blocks(number: int, size: int) -> int:
    """How many blocks of a size hold a number of things."""
    return -(-number // size)


def tuned(*key: str, warps: tuple[int, ...] = (4, 8), stages: tuple[int, ...] = (2,)) -> Callable[[Any], Any]:
    """Lets a kernel take the fastest of a few launch settings, timed once for each new value of the key's arguments.

    The settings never touch a kernel's blocks or the order of its loops. Under `torch.use_deterministic_algorithms`
    the first is taken unseen, so that two runs cannot differ in theirs.
    """
    choices = [triton.Config({}, num_warps=w, num_stages=s) for w in warps for s in stages]

    def worth_timing(configs: list[Any], named: dict[str, Any], **_: Any) -> list[Any]:
        data = next(value for value in named.values() if isinstance(value, Tensor))
        if data.dtype == torch.float32:
            # float32's products run without tensor cores and hold far more in registers: spread over the most threads
            configs = [each for each in configs if each.num_warps == max(warps)]
        return configs[:1] if torch.are_deterministic_algorithms_enabled() else configs

    def decorate(kernel: Any) -> Any:
        if INTERPRETED:
            return kernel
        prune = {"early_config_prune": worth_timing}
        return triton.autotune(configs=choices, key=list(key), prune_configs_by=prune)(kernel)

    return decorate


def rolled_by(shift: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """A shift as a number of rows and columns from 0 up to the map's sides, which kernels count with."""
    return shift[0] % max(height, 1), shift[1] % max(width, 1)


def share(pieces: int, least: int, most: int = 1024) -> int:
    """How many of a sum's pieces one program adds up: at least so many, and no more than `most` programs in all.

    It knows nothing of the card, so that a sum is taken in the same order on all of them.
    """
    return max(min(least, pieces), blocks(pieces, most), 1)


def placeholder(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A pointer for an argument that a kernel will not read."""
    return other if tensor is None else tensor


@triton.jit
def unroll(position, shift, side):
    """Where a position of a map rolled by −shift lies in the map itself; 0 ≤ shift < side."""
    moved = position + shift
    return tl.where(moved >= side, moved - side, moved)


@triton.jit
def kind_of(position, shift, side):
    """Which of three kinds a row or column of a rolled map is: 0 as before, 1 come over the seam, 2 padding."""
    return (position >= side - shift).to(tl.int32) + (position >= side).to(tl.int32)
