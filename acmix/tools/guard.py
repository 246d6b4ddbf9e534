"""The end of every command: an exit status, and one line where a user can mend what is wrong."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from acmix import memory
from acmix.errors import UsageError
from acmix.train.signals import Stopped
from acmix.train.worker_error import Failed, LostOthers, is_launched, write_worker_error

# no space is left: on the disk, or of what a user may take of it
FULL = (errno.ENOSPC, errno.EDQUOT)
# what ends a process by default: a batch system's, container's or `timeout`'s signal, and that of a closed terminal
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def guarded(call: Callable[[], object]) -> None:
    """Runs a command; what a user can cause ends in one line and status 2, a stop signal in its own status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a character that the terminal has not is shown by its number, as on standard error
        sys.stdout.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, interrupt)
    memory.keep()
    try:
        call()
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except UsageError as error:
        fail(str(error))
    except Failed as error:
        # of a process that is lost, a launcher says how it ended
        if not (isinstance(error, LostOthers) and is_launched()):
            print(f"acmix: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL:
            raise
        # what is left to be written there cannot be, and Python would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f" for {error.filename}" if error.filename else ""
        fail(f"{os.strerror(error.errno)}{where}; free some space, or write elsewhere")


def interrupt(number: int, frame: Any) -> None:
    """Ends the process, where Python's own handler could fail to.

    While PyTorch loads, a KeyboardInterrupt may be raised where its code drops every exception. Nothing has been done
    by then, so that nothing has to be closed.
    """
    if is_torch_loading():
        os._exit(130)
    signal.default_int_handler(number, frame)


def is_torch_loading() -> bool:
    """Whether an import of PyTorch has begun and not ended."""
    return getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False)


@contextmanager
def clearing_up() -> Iterator[None]:
    """Within the block SIGTERM and a closed terminal end the process as Ctrl-C does: what it wrote aside is removed.

    For commands that write aside; training saves when it is told to end. Also a decorator.
    """
    ours: list[int] = []
    if threading.current_thread() is threading.main_thread():
        # nohup has a closed terminal ignored, and whoever has set a handler keeps it
        ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def end(number: int, frame: Any) -> NoReturn:
    """Ends the process with a signal's status, and lets nothing interrupt the clearing up; `timeout` signals twice."""
    if is_torch_loading():
        os._exit(128 + number)
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def fail(message: str) -> NoReturn:
    """Ends the process with one line, which a launcher prints once for all of its processes."""
    if not write_worker_error(message):
        print(f"acmix: error: {message}", file=sys.stderr)
    sys.exit(2)
