"""Work on many images in reading processes, with progress and the time left on standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Dataset

from acmix.data.readers import Loader
from acmix.data.worker import READER_LOST, cores, start_worker
from acmix.train.log import duration
from acmix.train.terminal import new_console
from acmix.train.worker_error import Failed

# seconds between plain lines
PLAIN_SECONDS = 10.0


class Work(Protocol):
    """Pieces of work, each done by `work[number]` in some process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


class Pieces(Dataset[Any]):
    """Work as torch's loader takes it."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, number: int) -> Any:
        return self.work[number]


def done(work: Work, what: str, images: Sequence[int], workers: int | None) -> Iterator[Any]:
    """What comes of each piece of work, in their order.

    Args:
        work: the pieces; each result is small.
        what: is done, for the progress.
        images: how many each piece holds.
        workers: processes; None: the cores at hand. With fewer than two pieces, this process.

    Raises:
        Failed: a process was killed.
    """
    workers = min(cores() if workers is None else workers, len(work))
    loader = Loader(
        Pieces(work),
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=0 if len(work) < 2 else workers,
        worker_init_fn=start_worker,
    )
    with Watch(what, sum(images)) as watch:
        results = iter(loader)
        for number in range(len(work)):
            try:
                found = next(results)
            except RuntimeError as error:
                if READER_LOST not in str(error):
                    raise
                raise Failed(f"{what}: a process was killed, perhaps for want of memory; try fewer --workers") from None
            yield found
            watch.advance(images[number])


def as_it_is(found: Any) -> Any:
    """A result is no batch of tensors."""
    return found


class Watch:
    """A bar on a terminal, and a line now and then elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.passed = what, total, 0
        self.began = self.last = time.monotonic()
        console = new_console(stderr=True)
        self.is_live = console.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not self.is_live
        )
        self.bar = self.progress.add_task(what, total=total)

    def __enter__(self) -> Watch:
        self.progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.progress.stop()

    def advance(self, images: int) -> None:
        """So many more are done."""
        self.passed += images
        self.progress.advance(self.bar, images)
        now = time.monotonic()
        if not self.is_live and now - self.last >= PLAIN_SECONDS and self.passed < self.total:
            self.last = now
            left = math.ceil((now - self.began) / max(1, self.passed) * (self.total - self.passed))
            line = f"{self.what}: {self.passed:,} of {self.total:,} images, about {duration(left)} left"
            print(line, file=sys.stderr, flush=True)
