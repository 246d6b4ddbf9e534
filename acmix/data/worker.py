"""A reading process: how many cores there are for it; it ends at its trainer's signal alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

# what PyTorch says of a reading process that is gone
READER_LOST = "DataLoader worker (pid"


def cores() -> int:
    """The cores this process may use: a container or a batch system often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(_worker: int) -> None:
    """Prepares a reading process; torch has already set it to one thread and to end quietly with its parent."""
    # Ctrl-C goes to the whole foreground group; the trainer still needs its readers to finish the step
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # nor do those mean a reader by which a terminal or a batch system asks the trainer to save
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # so does SIGTERM where a batch system or systemd ends a job; only the trainer's own means this process
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=end_when_the_trainer_says_so, daemon=True).start()


def end_when_the_trainer_says_so() -> None:
    """Waits for SIGTERM, and ends this process where its trainer sent it."""
    trainer = multiprocessing.parent_process()
    while trainer is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer.pid:
        pass
    os._exit(0)


def kill_readers() -> None:
    """Ends this process's reading processes at once, those too that hang before they could listen to a signal."""
    for reader in multiprocessing.active_children():
        reader.kill()
