"""Two signals: the first asks a service to stop, the second ends it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Notes the first signal, and ends the process at the second one.

    Args:
        first: called at the first signal.
    """

    def __init__(self, first: Callable[[], object]) -> None:
        self.first, self.time = first, 0.0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Takes the signals over for a while; outside the main thread nobody can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.note) for number in HANDLED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if not self.time:
            self.time = time.monotonic()
            self.first()
            return
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
