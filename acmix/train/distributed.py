"""This process's place among all that train together, and how they come to act as one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from acmix.errors import UsageError
from acmix.train.device import this_device
from acmix.train.signs import Signs
from acmix.train.worker_error import Failed, LostOthers

# what torchrun tells a process, and what a process alone may assume
LAUNCHED = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
# what gloo and NCCL say when another process is gone
LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket (closed|timeout)|peer closed|remote process|ncclRemoteError"
    r"|NCCL (communicator was aborted|error)|gloo/transport|recvValue|sendBytes",
    re.IGNORECASE,
)
# what they say where it does not come
TIMED_OUT = re.compile(r"timed out waiting|wait timeout|collective operation timeout", re.IGNORECASE)


@dataclass(frozen=True)
class World:
    """Who we are.

    Args:
        rank: number of this process, from 0.
        size: how many processes there are.
        device: where this one computes.
        control: a group for small messages over the CPU, so that asking the others never waits for a GPU.
        signs: what this process and the others say they are doing.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None
    signs: Signs = field(default_factory=Signs)

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def join(device: str = "auto", timeout_minutes: float = 30.0) -> Iterator[World]:
    """Joins the processes that torchrun started, or stands alone; leaves them again at the end.

    Args:
        device: where this process computes, as `train.device`; of several processes, each has a GPU of its own.
        timeout_minutes: how long a process may wait for another.

    Raises:
        UsageError: no such device, more processes than GPUs, or one device for several processes.
        LostOthers: another process ended within the block.
        Failed: another process did not come to where this one waited for it.
    """
    size, rank, local_rank = (int(os.environ.get(key, default)) for key, default in LAUNCHED.items())
    here = own_device(device, size, local_rank)
    if here.type != "cpu":
        torch.accelerator.set_device_index(here.index)
    if size == 1:
        yield World(0, 1, here)
        return
    backend = dist.get_default_backend_for_device(here)
    # a GPU's own group waits twice as long: where one process is missed, the group over the CPU then says it
    patience = timedelta(minutes=timeout_minutes)
    signs = Signs(rank, size)
    try:
        device_id, wait = (None, patience) if here.type == "cpu" else (here, 2 * patience)
        dist.init_process_group(backend, device_id=device_id, timeout=wait)
        signs.store = dist.distributed_c10d._get_default_store().clone()
        control = dist.new_group(backend="gloo", timeout=patience)
        yield World(rank, size, here, control=control, signs=signs.start())
    except (RuntimeError, dist.DistBackendError) as error:
        said = " ".join(str(error).split())
        if TIMED_OUT.search(said):
            others = signs.of_others() or "nothing is known of them"
            raise Failed(
                f"process {rank}, {signs.doing}, waited {timeout_minutes:g} minutes for the others "
                f"(train.timeout_minutes): {others}; run the same command again to go on"
            ) from error
        if not LOST.search(said):
            raise
        raise LostOthers(f"process {rank} lost the others: {said[:200]}; see what they printed") from error
    finally:
        signs.done.set()
        if dist.is_initialized():
            dist.destroy_process_group()


def own_device(name: str, processes: int, local_rank: int) -> torch.device:
    """The device of one process among several: as named, or else the GPU with the process's number on its machine."""
    check_shared(name, processes)
    device = this_device(name)
    if device.type == "cpu":
        return device
    number, present = local_rank if device.index is None else device.index, torch.accelerator.device_count()
    if number >= present:
        raise UsageError(
            f"process {number} has no GPU: this machine has {present}; start {present} processes, or choose the device "
            "cpu"
        )
    return torch.device(device.type, number)


def check_shared(name: str, processes: int) -> None:
    """Refuses one numbered device for several processes."""
    kind, _, number = name.partition(":")
    if number and processes > 1:
        raise UsageError(
            f"the device {name} is a single one, and {processes} processes each need their own; name only the kind, "
            f"{kind}, or start 1 process"
        )


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
