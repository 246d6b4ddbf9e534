"""The network between processes, measured: bandwidth, latency, and what reductions and compute cost each other."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from acmix.benchmark.machine import synchronize
from acmix.train.distributed import World

# bytes of the reductions that are timed: these, and all gradients
SIZES = (2**12, 2**16, 2**18, 2**20, 2**22, 2**24)
# reductions that a mean is of
LEAST, MOST = 5, 200
# how long the reductions beside compute last, in steps
STEPS_BESIDE = 6


def network_of(
    world: World, gradients: int, work: Callable[[int], object], alone: float, seconds: float
) -> dict[str, Any]:
    """The keys of `network` that one machine can measure; every process calls it.

    Args:
        world: of the processes, two at least.
        gradients: bytes of all of them.
        work: takes a step, of which it is told the number.
        alone: seconds of a step without reductions.
        seconds: how long reductions are timed, about.
    """
    times = reduction_times(world, gradients, seconds)
    constant, slope = line_through(times)
    messages = 2 * (world.size - 1)
    size = max(each for each in times if each <= SIZES[-1])
    compute_rate, communication_rate = rates_beside(world, size, times[size], work, alone)
    return {
        "inside": {"gb_per_second": messages / world.size / slope / 1e9, "latency_us": 1e6 * constant / messages},
        "compute_rate": compute_rate,
        "communication_rate": communication_rate,
    }


def reduction_times(world: World, gradients: int, seconds: float) -> dict[int, float]:
    """Seconds of a reduction by its bytes: means, of the slowest process."""
    sizes = sorted({*(size for size in SIZES if size < gradients), gradients})
    found = {}
    for size in sizes:
        data = torch.zeros(max(1, size // 4), device=world.device)
        # the same number on every process
        once = slowest(world, statistics.fmean(reduce_often(data, LEAST)))
        often = int(min(MOST, max(LEAST, seconds / len(sizes) / once)))
        found[size] = slowest(world, statistics.fmean(reduce_often(data, often)))
    return found


def reduce_often(data: torch.Tensor, often: int) -> list[float]:
    """Seconds of each of several reductions."""
    times = []
    for _ in range(often):
        synchronize(data.device)
        began = time.perf_counter()
        dist.all_reduce(data)
        synchronize(data.device)
        times.append(time.perf_counter() - began)
    return times


def slowest(world: World, number: float) -> float:
    """The largest over the processes."""
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=world.control)
    return largest.item()


def line_through(times: dict[int, float]) -> tuple[float, float]:
    """Seconds of a reduction of no bytes, and seconds a byte: the line of least relative errors."""
    sizes, seconds = np.array([*times]), np.array([*times.values()])
    sides = np.stack([1 / seconds, sizes / seconds], axis=1)
    constant, slope = np.linalg.lstsq(sides, np.ones(len(seconds)), rcond=None)[0]
    if constant < 0 or slope <= 0:
        constant, slope = 0.0, float(np.median(seconds / sizes))
    return float(constant), float(slope)


def rates_beside(
    world: World, size: int, once: float, work: Callable[[int], object], alone: float
) -> tuple[float, float]:
    """The rates of compute and of communication while both go on, of those they have alone.

    Args:
        world: of the processes that reduce.
        size: bytes of a reduction.
        once: its seconds alone.
        work: takes a step, of which it is told the number.
        alone: seconds of a step alone.
    """
    data = torch.zeros(max(1, size // 4), device=world.device)
    often = int(min(100 * MOST, max(LEAST, STEPS_BESIDE * slowest(world, alone) / once)))
    took: list[float] = []

    def reduce() -> None:
        # a thread has no device and stream but the usual ones; on those, reductions would wait for the compute
        device = world.device
        stream = None if device.type == "cpu" else torch.Stream(device)
        if stream is not None:
            torch.accelerator.set_device_index(device.index)
            torch.accelerator.set_stream(stream)
        began = time.perf_counter()
        for _ in range(often):
            dist.all_reduce(data)
        if stream is not None:
            stream.synchronize()
        took.append(time.perf_counter() - began)

    other = threading.Thread(target=reduce)
    other.start()
    times: list[float] = []
    while other.is_alive():
        began = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - began)
    other.join()
    # the last one went on after the reductions had ended
    whole = times[:-1] or times
    return min(1.0, alone / statistics.fmean(whole)), min(1.0, once * often / took[0])
