"""How a data set is measured, whatever the task: the model's mode, and what processes tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from acmix.errors import UsageError

Item = TypeVar("Item")

# items that travel in one message; a hundred masks an image are some 20 kB
CHUNK = 128


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode, and back in its own afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def gathered(items: Sequence[Item], group: Any = None) -> list[Item]:
    """Everybody's items on the first process, by process and in order; nothing on the others. Every process calls it.

    They travel in chunks, so that no message holds a whole data set.

    Args:
        items: this process's; anything that can be pickled.
        group: of processes; the default group by default.
    """
    if processes(group) == 1:
        return list(items)
    counts = told_to_all(len(items), group)
    first = dist.get_rank(group) == 0
    parts: list[list[Item]] = [[] for _ in counts]
    for start in range(0, max(counts), CHUNK):
        arrived: list[Any] | None = [None] * len(counts) if first else None
        dist.gather_object(items[start : start + CHUNK], arrived, group=group, group_dst=0)
        for place, chunk in enumerate(arrived or ()):
            parts[place] += chunk
    return list(chain.from_iterable(parts))


def told_to_all(value: Item, group: Any = None) -> list[Item]:
    """Everybody's value, by process, on every process. Every process calls it."""
    told: list[Any] = [value] * processes(group)
    if len(told) > 1:
        dist.all_gather_object(told, value, group=group)
    return told


def by_first(work: Callable[[], Item], group: Any = None) -> Item:
    """Does a work on the first process alone, and gives every process what it returned. Every process calls it.

    Raises:
        UsageError: on every process, the one that the first met.
    """
    if processes(group) == 1:
        return work()
    said: list[Any] = [None, None]
    failure: UsageError | None = None
    if dist.get_rank(group) == 0:
        try:
            said[0] = work()
        except UsageError as error:
            failure = error
            said[1] = str(error)
    dist.broadcast_object_list(said, group=group, group_src=0)
    if said[1] is not None:
        raise UsageError(said[1]) from failure
    return said[0]


def processes(group: Any = None) -> int:
    """How many processes there are."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
