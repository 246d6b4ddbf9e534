"""Batches of what has arrived, computed one after the other by the one thread that the model belongs to."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from acmix.serve.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Waiting(Generic[Item, Result]):
    """An item on its way through the model."""

    item: Item
    future: asyncio.Future[Result]
    since: float = field(default_factory=time.monotonic)


class Batches(Generic[Item, Result]):
    """Groups items and computes each group.

    A batch is full, or its first item has waited for the window. What has arrived while the model computed goes next,
    at once where its window has passed. If a batch fails, each of its items is tried alone, so that one of them harms
    no other.

    Args:
        compute: results of items, in order; runs in the model's thread.
        size: the most items of a batch.
        window: seconds that the first one waits for others.
        metrics: where batches are counted.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result]], size: int, window: float, metrics: Metrics
    ) -> None:
        self.compute, self.size, self.window, self.metrics = compute, size, window, metrics
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting: deque[Waiting[Item, Result]] = deque()
        self.arrived = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def result(self, item: Item) -> Result:
        """The result of an item, whose turn comes in the order of arrival; what is cancelled before is not computed."""
        if self.task is None:
            self.task = asyncio.create_task(self.run())
        one = Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        self.waiting.append(one)
        self.arrived.set()
        return await one.future

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Something else in the model's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

    async def run(self) -> None:
        """Computes batch after batch, without an end."""
        while True:
            batch = await self.next_batch()
            if batch:
                await self.answer(batch)

    async def next_batch(self) -> list[Waiting[Item, Result]]:
        """The items of a batch that somebody still waits for."""
        await self.wait_until(lambda: bool(self.waiting), None)
        deadline = self.waiting[0].since + self.window
        await self.wait_until(lambda: len(self.waiting) >= self.size, deadline)
        taken = [self.waiting.popleft() for _ in range(min(self.size, len(self.waiting)))]
        return [each for each in taken if not each.future.done()]

    async def wait_until(self, condition: Callable[[], bool], deadline: float | None) -> None:
        """Waits for items until a condition holds, or it is too late."""
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), left)
            except asyncio.TimeoutError:
                return

    async def answer(self, batch: list[Waiting[Item, Result]]) -> None:
        """Computes a batch and hands the results out."""
        begun = time.monotonic()
        future = asyncio.get_running_loop().run_in_executor(self.thread, self.compute, [each.item for each in batch])
        await asyncio.wait({future})
        self.metrics.batches.observe(len(batch))
        self.metrics.computing.observe(time.monotonic() - begun)
        error = future.exception()
        if error is None:
            for each, result in zip(batch, future.result(), strict=True):
                if not each.future.done():
                    each.future.set_result(result)
        elif len(batch) > 1:
            for each in batch:
                await self.answer([each])
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)

    def close(self) -> None:
        """Ends the model's thread behind what it computes."""
        self.thread.shutdown()


class Budget:
    """A number that parts of are taken and given back; who finds too little left waits, in the order of arrival.

    Args:
        most: to be taken at a time. A part that is larger is taken alone.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, part: int) -> None:
        """Waits for its turn and takes a part."""
        if not self.waiting and self.fits(part):
            self.taken += part
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((part, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # its turn had come just before
                self.give_back(part)
            raise

    def fits(self, part: int) -> bool:
        """Whether a part can be taken now."""
        return self.taken == 0 or self.taken + part <= self.most

    def give_back(self, part: int) -> None:
        """Gives a part back, and wakes those who wait for it."""
        self.taken -= part
        while self.waiting:
            part, turn = self.waiting[0]
            if not turn.done():
                if not self.fits(part):
                    return
                self.taken += part
                turn.set_result(None)
            self.waiting.popleft()
