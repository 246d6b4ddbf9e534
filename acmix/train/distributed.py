"""This process's place among all that train together, and how they come to act as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from acmix.errors import UsageError
from acmix.train.device import accelerator

# what torchrun tells a process, and what a process alone may assume
LAUNCHED = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}


@dataclass(frozen=True)
class World:
    """Who we are.

    Args:
        rank: number of this process, from 0.
        size: how many processes there are.
        device: where this one computes.
        control: a group for small messages over the CPU, so that asking the others never waits for a GPU.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def join() -> Iterator[World]:
    """Joins the processes that torchrun started, or stands alone; leaves them again at the end.

    Raises:
        UsageError: more processes than GPUs.
    """
    size, rank, local_rank = (int(os.environ.get(key, default)) for key, default in LAUNCHED.items())
    found = accelerator()
    device = torch.device("cpu") if found is None else torch.device(found.type, local_rank)
    if found is not None:
        present = torch.accelerator.device_count()
        if local_rank >= present:
            raise UsageError(f"process {local_rank} has no GPU: this machine has {present}; start {present} processes")
        torch.accelerator.set_device_index(local_rank)
    if size == 1:
        yield World(0, 1, device)
        return
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, device_id=None if found is None else device)
    try:
        yield World(rank, size, device, control=dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


@contextmanager
def together(world: World) -> Iterator[None]:
    """Lets every process fail where one does: none is left waiting for it. Every process enters the block.

    Raises:
        UsageError: on every process, the one that the first of them met.
    """
    failure: UsageError | None = None
    try:
        yield
    except UsageError as error:
        failure = error
    said: list[Any] = [None if failure is None else str(failure)]
    if world.size > 1:
        said *= world.size
        dist.all_gather_object(said, said[0], group=world.control)
    for message in said:
        if message is not None:
            raise UsageError(message) from failure


class Agreement:
    """Lets all processes take the same decision at the same step, one step late and without waiting.

    Each step every process says its numbers; the largest of each, over all processes, is known at the next one.
    """

    def __init__(self, world: World, numbers: int) -> None:
        self.world = world
        self.known = torch.zeros(numbers, dtype=torch.int64)
        self.pending: tuple[Any, torch.Tensor] | None = None

    def exchange(self, *numbers: int) -> list[int]:
        """Says this process's numbers and returns the largest that were said at the step before."""
        ours = torch.tensor(numbers, dtype=torch.int64)
        if self.world.size == 1:
            self.known = ours
            return self.known.tolist()
        self.settle()
        work = dist.all_reduce(ours, dist.ReduceOp.MAX, group=self.world.control, async_op=True)
        self.pending = (work, ours)
        return self.known.tolist()

    def settle(self) -> list[int]:
        """Waits for what was said last, and returns it."""
        if self.pending is not None:
            work, self.known = self.pending
            work.wait()
            self.pending = None
        return self.known.tolist()
