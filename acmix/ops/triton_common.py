"""What the GPU kernels share: a choice of launch settings, index arithmetic.

Triton reads TRITON_INTERPRET when a kernel is defined, so it has to be set before this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from acmix.ops.triton_launch import INTERPRETED, after_trials, is_untimed

# (warps, stages): what a kernel is tried with, unless it says otherwise
USUAL = ((4, 2), (8, 2))


def tuned(
    *key: str, choices: tuple[tuple[int, int], ...] = USUAL, float32: tuple[int, int] = (8, 2)
) -> Callable[[Any], Any]:
    """Lets a kernel take the fastest of a few launch settings, timed once for each new value of the key's arguments.

    The settings never touch a kernel's blocks or the order of its loops. Under `torch.use_deterministic_algorithms`
    the first is taken unseen, so that two runs cannot differ in theirs. At the networks' shapes none of the choices
    spills on sm_80, sm_90 or sm_100 (`python benchmarks/gpu.py --ahead`); one that does is left out here.

    Args:
        key: names of arguments.
        choices: (warps, stages) each.
        float32: those of float32, whose products run without tensor cores and hold far more in registers.
    """
    pairs = dict.fromkeys((*choices, float32))
    made_of = {each: triton.Config({}, num_warps=each[0], num_stages=each[1]) for each in pairs}

    def worth_timing(_configs: list[Any], named: dict[str, Any], **_: Any) -> list[Any]:
        data = next(value for value in named.values() if isinstance(value, Tensor))
        configs = [made_of[each] for each in ((float32,) if data.dtype == torch.float32 else choices)]
        return configs[:1] if torch.are_deterministic_algorithms_enabled() or is_untimed() else configs

    def decorate(kernel: Any) -> Any:
        if INTERPRETED:
            return kernel
        prune = {"early_config_prune": worth_timing}
        made = triton.autotune(configs=list(made_of.values()), key=list(key), prune_configs_by=prune)(kernel)
        after_trials.append(made.cache.clear)
        return made

    return decorate


@triton.jit
def unroll(position, shift, side):
    """Where a position of a map rolled by −shift lies in the map itself; 0 ≤ shift < side."""
    moved = position + shift
    return tl.where(moved >= side, moved - side, moved)


@triton.jit
def kind_of(position, shift, side):
    """Which of three kinds a row or column of a rolled map is: 0 as before, 1 come over the seam, 2 padding."""
    return (position >= side - shift).to(tl.int32) + (position >= side).to(tl.int32)


@triton.jit
def softmax_step(largest, total, logits):
    """Goes on by a block of keys: the new maximum and sum, the block's weights, and what earlier sums fade by."""
    before = largest
    largest = tl.maximum(before, tl.max(logits, axis=1))
    weights = tl.exp(logits - largest[:, None])
    # what a query added before it saw its first key fades to nothing
    fade = tl.exp(before - largest)
    return largest, total * fade + tl.sum(weights, axis=1), weights, fade


@triton.jit
def mirror(position, side, ONCE: tl.constexpr):
    """The pixel that stands at a position of a line mirrored at both ends."""
    if ONCE:
        inside = side - 1 - tl.abs(side - 1 - tl.abs(position))
        # only what is masked lies further out
        return tl.maximum(inside, 0)
    period = tl.maximum(2 * (side - 1), 1)
    rest = tl.abs(position) % period
    return tl.minimum(rest, period - rest)
