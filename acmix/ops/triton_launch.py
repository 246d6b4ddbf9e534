"""What the operators' `triton` modules share: what they take, sizes of blocks, and kernels that load when they run.

Nothing here imports triton. Triton reads TRITON_INTERPRET when a kernel is defined, so it has to be set before this
module is imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from acmix.ops.neighbours import reflected

_untimed = threading.local()
# called when trials end: Triton keeps a choice by a call's widths, whatever the size of the map
after_trials: list[Callable[[], object]] = []
# kernels run in Triton's interpreter, on the CPU: a proof that needs no GPU
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def untimed() -> Iterator[None]:
    """Inside, in this thread, a kernel takes the first of its launch settings, and does not keep it."""
    _untimed.on = True
    try:
        yield
    finally:
        _untimed.on = False
        for forget in after_trials:
            forget()


def is_untimed() -> bool:
    """Whether this thread is inside `untimed`."""
    return getattr(_untimed, "on", False)


class Kernels:
    """A module of kernels, imported when one of them first runs.

    Args:
        name: the module's.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, kernel: str) -> Any:
        return getattr(import_module(self.name), kernel)


def why_not(data: Tensor) -> str | None:
    """The reason why data is out of every GPU kernel's reach, or None."""
    if data.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, and the data is {str(data.dtype).removeprefix('torch.')}"
    if data.device.type == "cuda":
        return None
    if data.device.type != "cpu" or not INTERPRETED:
        return f"runs on a GPU only, and the data is on {data.device.type}"
    return "Triton's interpreter multiplies bfloat16 wrongly" if data.dtype == torch.bfloat16 else None


def unless_forced(data: Tensor) -> str | None:
    """The reason why kernels that can run do not, unless they are forced."""
    slow = data.device.type == "cpu"
    return "Triton's interpreter proves kernels and is slow; it runs when forced" if slow else None


def machine_why_not() -> str | None:
    """The reason why the GPU kernels run nothing on this machine."""
    return None if INTERPRETED and find_spec("triton") else gpu_why_not()


@cache
def gpu_why_not() -> str | None:
    """The reason why this machine has no GPU for the kernels; looked up once, since every call of an operator asks."""
    if find_spec("triton") is None:
        return "triton is not installed; `pip install triton`"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    major = torch.cuda.get_device_capability()[0]
    return None if major >= 8 else f"needs a GPU of compute capability 8 or newer, and this one has {major}"


def power_of_two(number: int, least: int = 1, most: int = 1 << 30) -> int:
    """The smallest power of two that is no less than a number, within bounds."""
    return min(max(1 << max(number - 1, 0).bit_length(), least), most)


def blocks(number: int, size: int) -> int:
    """How many blocks of a size hold a number of things."""
    return -(-number // size)


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


@lru_cache(maxsize=256)
def images_of(side: int, reach: int, device: str) -> Tensor:
    """Where each pixel of a line stands in the line with its mirrored margins: (side, images), −1 for nowhere."""
    stands = [[] for _ in range(side)]
    for place, pixel in enumerate(reflected(side, reach, torch.device("cpu")).tolist()):
        stands[pixel].append(place)
    most = max(map(len, stands))
    return torch.tensor([each + [-1] * (most - len(each)) for each in stands], dtype=torch.int32, device=device)
