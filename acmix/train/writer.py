"""Writes checkpoints beside the training: a step waits for a copy in memory, not for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from acmix.errors import UsageError
from acmix.train import checkpoint

# copies in memory: that of best.pt and that of last.pt
MOST_WAITING = 2


class Writer:
    """Takes copies of checkpoints and writes them one after the other, in the order in which they came.

    What was taken is on the disk after `finish`. A process that is killed before has the checkpoints from before it.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.waiting: deque[Future[None]] = deque()
        self.failure: UsageError | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a write has failed since `check` told of one."""
        self.collect(most=MOST_WAITING)
        return self.failure is not None

    def write(self, path: Path, contents: Mapping[str, Any], *, keep: int | None = None) -> None:
        """Takes a copy of a checkpoint, to be written as `checkpoint.save` does; waits where others are waiting to be.

        Raises:
            UsageError: an earlier one could not be written.
        """
        self.collect(most=MOST_WAITING - 1)
        self.check()
        self.waiting.append(self.pool.submit(checkpoint.save, path, copied(contents), keep=keep))

    def finish(self) -> None:
        """Waits until all is on the disk.

        Raises:
            UsageError: one could not be written.
        """
        self.collect(most=0)
        self.check()

    def check(self) -> None:
        """Raises what a write met, once."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def collect(self, *, most: int) -> None:
        """Looks at what is done, and waits until at most so many are left."""
        while self.waiting and (len(self.waiting) > most or self.waiting[0].done()):
            try:
                self.waiting.popleft().result()
            except UsageError as error:
                self.failure = self.failure or error

    def close(self) -> None:
        """Waits until all is on the disk, whatever becomes of it, and ends the thread."""
        self.collect(most=0)
        self.pool.shutdown()


def copied(value: Any) -> Any:
    """The same content, which no later step changes; tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value
