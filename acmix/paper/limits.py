"""What `acmix paper speed` can measure on this machine."""

from __future__ import annotations

import torch

from acmix.benchmark.machine import check_batch_size, check_seconds, default_device
from acmix.benchmark.scaling import check_processes
from acmix.errors import UsageError
from acmix.train.size import memory

LEAST_SIDE = 128
# what a network's training step holds at least for a pixel of an image, and the side of what an operator's maps are of
BYTES_A_PIXEL, OPERATOR_SIDE = 1000, 224


def few_of(batch_size: int) -> int:
    """Images of a network's batch: mixup of a training step takes pairs."""
    return 2 * max(1, batch_size // 8)


def check(batch_size: int, img_size: int, seconds: float, processes: int = 1) -> None:
    """Refuses what cannot be measured, or not in this machine's memory, before anything is.

    Args:
        batch_size, img_size, seconds: as of `measure`.
        processes: of the recipe's table.

    Raises:
        UsageError: names the option.
    """
    check_batch_size(batch_size)
    check_seconds(seconds)
    if img_size < LEAST_SIDE:
        raise UsageError(
            f"--img-size {img_size}; the released form mirrors half a neighbourhood of 7 pixels, so that its last maps "
            f"need 4 pixels a side: expected at least {LEAST_SIDE}"
        )
    if processes < 1:
        raise UsageError(f"--gpus {processes}; expected at least 1")
    check_processes(processes)
    device = default_device()
    gpu = getattr(torch.get_device_module(device), "get_device_properties", None)
    there = memory() if device.type == "cpu" or gpu is None else float(gpu(device).total_memory)
    for option, pixels in (
        (f"--batch-size {batch_size}", batch_size * OPERATOR_SIDE**2),
        (f"--img-size {img_size}", few_of(batch_size) * img_size**2),
    ):
        if BYTES_A_PIXEL * pixels > there:
            raise UsageError(f"{option} does not fit into this machine's {there / 2**30:,.0f} GiB; take less")
