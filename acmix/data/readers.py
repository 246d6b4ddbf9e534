"""torch's loader, whose reading processes are forked at a safe moment and missed soon after their end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling  # pyright: ignore[reportPrivateUsage]
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter  # pyright: ignore[reportPrivateUsage]

from acmix.data.worker import wait_for_other_threads

# seconds between looks at the readers while a batch is waited for
LOOK = 1.0


class Loader(DataLoader[Any]):
    """torch's loader; its readers are forked while no other thread of this process is at work.

    A fork copies one thread, and locks as they stand. Python 3.11 waits in the new process for the lock of its list of
    threads; had another thread held it, such as one of gloo's that gives back a tensor, the reader never begins.
    """

    def __iter__(self) -> Any:
        """Batches."""
        if self.num_workers:
            wait_for_other_threads()
        return super().__iter__()

    def _get_iterator(self) -> Any:
        return Batches(self) if self.num_workers else super()._get_iterator()


class Batches(_MultiProcessingDataLoaderIter):
    """torch's batches; a reader that is gone is noticed while a batch is waited for, in a second or two.

    torch tells of it by an error that it raises out of a signal's handler, wherever the program is. Where that is a
    callback of Python's, the error is printed and dropped, and torch looks again when the loader's timeout is over.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        tell_while_waiting()

    def _try_get_data(self, timeout: float = LOOK) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            with Telling.waiting():
                found = super()._try_get_data(max(0.0, min(LOOK, left)))
            if found[0] or left <= LOOK:
                return found


class Telling:
    """A handler of signals that hands them on while a batch is waited for, and at no other time.

    Args:
        handler: what is called.
    """

    is_waiting = False

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if Telling.is_waiting:
            self.handler(number, frame)

    @staticmethod
    @contextmanager
    def waiting() -> Iterator[None]:
        """While a batch is waited for."""
        before, Telling.is_waiting = Telling.is_waiting, True
        try:
            yield
        finally:
            Telling.is_waiting = before


def tell_while_waiting() -> None:
    """Puts a `Telling` around torch's handler, where that is in place; in other threads than the main one it is not."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and getattr(handler, "__module__", "") == signal_handling.__name__:
        signal.signal(signal.SIGCHLD, Telling(handler))
