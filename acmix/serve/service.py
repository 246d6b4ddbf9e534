"""A model that answers many at a time: uploads are decoded by a few threads, and computed in batches by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from torch import nn

from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.serve import answers
from acmix.serve.batches import Batches, Budget
from acmix.serve.metrics import Metrics
from acmix.serve.options import Options
from acmix.serve.pictures import pixels_of, prepared
from acmix.serve.refused import Refused
from acmix.serve.uploads import Upload
from acmix.tools.load import Info
from acmix.tools.predict import Found, Predictor, usable


class Service:
    """A loaded model and what stands before it.

    Args:
        model: of `acmix.load`; in evaluation mode from now on, and used by this service alone.
        info: its info.
        options: limits.

    Raises:
        UsageError: the model cannot read pictures, or an option is not for it.
    """

    def __init__(self, model: nn.Module, info: Info, options: Options) -> None:
        self.info, self.options, self.metrics = info, options, Metrics()
        self.predictor: Predictor = usable(model, top=options.top, score=options.score)
        if info.transform.steps is None:
            raise UsageError(f"{info.source} cannot be served: how pictures are prepared for it is not known")
        model.eval()
        self.is_stopping = False
        # images taken and not answered, and requests that have not come that far
        self.pending = self.coming = 0
        self.pool = ThreadPoolExecutor(min(options.workers, max(1, cores())), thread_name_prefix="decode")
        self.pixels = Budget(options.max_pixels)
        window = options.window_ms / 1e3
        self.batches: Batches[tuple[str, Any], Found] = Batches(
            self.predictor.found, options.batch_size, window, self.metrics
        )

    def warm_up(self) -> None:
        """Computes a grey image, so that what fails or is slow at first is so before the first request.

        Raises:
            UsageError: the model cannot be used.
        """
        one = self.predictor.prepared(Image.new("RGB", (224, 224), (128, 128, 128)))
        [found] = self.batches.thread.submit(self.predictor.found, [("grey", one)]).result()
        if found.error is not None:
            raise UsageError(f"{self.info.source} cannot be served: {found.error}")

    def close(self) -> None:
        """Ends the threads, behind what they do."""
        self.batches.close()
        self.pool.shutdown()

    async def in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call in one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    @contextlib.contextmanager
    def admitted(self) -> Any:
        """Counts a request while its body comes, which takes no place in the queue: its images may never come.

        Raises:
            Refused: the queue is full now.
        """
        if self.pending >= self.options.queue:
            raise self.full()
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    @contextlib.contextmanager
    def queued(self, images: int) -> Any:
        """Holds places in the queue.

        Raises:
            Refused: there are not so many left.
        """
        if self.pending + images > self.options.queue:
            raise self.full()
        self.pending += images
        self.metrics.queue.set(self.pending)
        try:
            yield
        finally:
            self.pending -= images
            self.metrics.queue.set(self.pending)

    def full(self) -> Refused:
        """Of a queue without a place."""
        return Refused(429, f"{self.options.queue} images wait already; try again later", retry_after=1)

    async def predicted(self, uploads: list[Upload]) -> tuple[list[dict[str, Any]], int]:
        """What is found in each image, in order, and how many could not be read.

        Raises:
            Refused: the queue is full.
        """
        with self.queued(len(uploads)):
            tasks = [asyncio.create_task(self.one(each)) for each in uploads]
            try:
                found = list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
        bad = sum(each["error"] is not None for each in found)
        self.metrics.images.labels("predicted").inc(len(found) - bad)
        self.metrics.images.labels("refused").inc(bad)
        return found, bad

    async def one(self, upload: Upload) -> dict[str, Any]:
        """What is found in one image, or why it cannot be read."""
        try:
            async with self.prepared(upload) as ready:
                found = await self.batches.result((upload.name, ready))
            return await self.in_pool(answers.answer_of, found)
        except UsageError as error:
            return answers.unread(self.info.task, upload.name, error)

    @contextlib.asynccontextmanager
    async def prepared(self, upload: Upload) -> AsyncIterator[Any]:
        """An image as the model reads it, whose pixels count against the budget until the block ends.

        Raises:
            UsageError: it cannot be read.
        """
        pixels = await self.in_pool(pixels_of, upload, self.options.max_pixels)
        await self.pixels.take(pixels)
        try:
            yield await self.in_pool(prepared, self.predictor, upload)
        finally:
            self.pixels.give_back(pixels)
