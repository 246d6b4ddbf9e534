"""Signals as requests that the loop reads between two steps.

| signal | what the run does |
|---|---|
| Ctrl-C, SIGTERM, SIGHUP (a closed terminal; not under nohup), SIGUSR1 (Slurm's warning) | saves, and stops |
| SIGUSR2 | saves, and goes on |

A run that a launcher started stops as by SIGTERM when its launcher is gone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, ClassVar

from acmix.data.worker import kill_readers
from acmix.train.words import LAUNCHER_PROCESS

# A terminal and a launcher may both pass one Ctrl-C on; within this time they count as one.
SAME_REQUEST_SECONDS = 5.0
# those that stop a run, and that which has it save alone, where the system has them
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
SAVING = getattr(signal, "SIGUSR2", None)
# how often a launched process looks for its launcher, and how long it may take to stop without it
LOOK_SECONDS, ORPHAN_SECONDS = 1.0, 600.0


class StopRequest:
    """Notes the first signal; a second one, seconds later, ends the process as it would have without us."""

    # of the run under way in this process
    current: ClassVar[StopRequest | None] = None

    def __init__(self) -> None:
        self.signal = 0
        self.time = 0.0
        # whether a checkpoint is asked for that stops nothing
        self.is_save = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        StopRequest.current = self
        # outside the main thread Python has no say in signals
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOPPING:
            # nohup has a closed terminal ignored
            if signal.getsignal(number) != signal.SIG_IGN or number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.note)
        if SAVING is not None:
            self.before[SAVING] = signal.signal(SAVING, self.note_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        StopRequest.current = None
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self.time = number, now
        elif now - self.time > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def note_save(self, number: int, frame: FrameType | None) -> None:
        self.is_save = True


class Stopped(Exception):
    """Training was asked to stop and has saved where it was.

    Args:
        number: the signal.
        message: what was saved and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def end_with_launcher() -> None:
    """Sends this process SIGTERM when the process that started it is gone, and ends it where that does not help.

    A launcher that is killed cannot tell its processes, which would train on, beside those of the next start.
    """
    # it may be gone already; torchrun does not say its number
    launcher = int(os.environ.get(LAUNCHER_PROCESS) or os.getppid())

    def look() -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK_SECONDS)
        # a run that is saving already would take another signal for a wish to end at once
        if StopRequest.current is None or not StopRequest.current.signal:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        kill_readers()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=look, daemon=True, name="launcher").start()
