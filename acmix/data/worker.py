"""Reading processes: how many cores there are for them, when they are forked, and what ends them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from acmix import memory

# seconds that a fork waits for the other threads at most
LONGEST_WAIT = 0.5
# of a thread, as Linux tells them: it runs, or waits for memory or a disk
AT_WORK = ("R", "D")
# seconds between two looks for the trainer
LOOK_EVERY = 5.0
# what PyTorch says of a reading process that is gone
READER_LOST = "DataLoader worker (pid"


def cores() -> int:
    """The cores this process may use: a container or a batch system often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_for_other_threads(longest: float = LONGEST_WAIT) -> bool:
    """Waits until all other threads of this process wait for something; elsewhere than on Linux it does not know.

    Args:
        longest: seconds to wait.

    Returns:
        Whether they do.
    """
    until, own = time.monotonic() + longest, threading.get_native_id()
    while any(state_of(each) in AT_WORK for each in threads_beside(own)):
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def threads_beside(own: int) -> list[Path]:
    """What Linux tells of this process's other threads."""
    place = Path("/proc/self/task")
    return [each for each in place.iterdir() if each.name != str(own)] if place.is_dir() else []


def state_of(thread: Path) -> str:
    """One letter; "" where the thread has ended."""
    try:
        # the name before it may hold anything
        return (thread / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def start_worker(_worker: int) -> None:
    """Prepares a reading process; torch has already set it to one thread and to end quietly with its parent."""
    # a reader would keep the largest image that it has met
    memory.keep_no_more()
    # Ctrl-C goes to the whole foreground group; the trainer still needs its readers to finish the step
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # nor do those mean a reader by which a terminal or a batch system asks the trainer to save
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # so does SIGTERM where a batch system or systemd ends a job; only the trainer's own means this process
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_with_the_trainer, daemon=True).start()


def end_with_the_trainer() -> None:
    """Ends this process where its trainer sends SIGTERM or is gone.

    torch's readers look for their trainer too, by the number that their parent had when they began to read: one whose
    trainer was killed between the fork and that moment would wait for ever.
    """
    trainer = multiprocessing.parent_process()
    # where the parent is another, such as a fork server, the pipe that the trainer holds open tells
    while trainer is not None and (os.getppid() == trainer.pid or trainer.is_alive()):
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(LOOK_EVERY)
        elif (told := signal.sigtimedwait({signal.SIGTERM}, LOOK_EVERY)) and told.si_pid == trainer.pid:
            break
    if trainer is not None:
        os._exit(0)


def kill_readers() -> None:
    """Ends this process's reading processes at once, those too that hang before they could listen to a signal."""
    for reader in multiprocessing.active_children():
        reader.kill()


def from_readers(error: BaseException) -> bool:
    """Whether an error was raised where batches are received from the reading processes."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__", "").startswith("torch.utils.data."):
            return True
        frame = frame.tb_next
    return False
