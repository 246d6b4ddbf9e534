"""What a process does before it loads torch, which takes seconds."""

from __future__ import annotations

import signal
import threading


def save_later() -> None:
    """Has SIGUSR2, which asks a run to save, ignored until there is something to save: it would end the process.

    Processes that this one starts inherit it. Outside the main thread Python has no say in signals.
    """
    if hasattr(signal, "SIGUSR2") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
