"""Ctrl-C and SIGTERM as a request that the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# A terminal and a launcher may both pass one Ctrl-C on; within this time they count as one.
SAME_REQUEST_SECONDS = 5.0


class StopRequest:
    """Notes the first signal; a second one, seconds later, ends the process as it would have without us."""

    def __init__(self) -> None:
        self.signal = 0
        self.time = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # outside the main thread Python has no say in signals
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self.time = number, now
        elif now - self.time > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class Stopped(Exception):
    """Training was asked to stop and has saved where it was.

    Args:
        number: the signal.
        message: what was saved and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
