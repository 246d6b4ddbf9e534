"""The end of every command: an exit status, and one line where a user can mend what is wrong."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from acmix import memory
from acmix.errors import UsageError
from acmix.train.signals import SAME_REQUEST_SECONDS, Stopped
from acmix.train.worker_error import Failed, LostOthers, is_launched, write_worker_error

# no space is left: on the disk, or of what a user may take of it
FULL = (errno.ENOSPC, errno.EDQUOT)
# Ctrl-C; a batch system's, container's or `timeout`'s signal; that of a closed terminal
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


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
    """Within the block Ctrl-C, SIGTERM and a closed terminal end the process, and what it wrote aside is removed.

    For commands that write aside; training saves when it is told to end. The status is that of the first signal, also
    where a library makes another error of it, or drops it. What follows within seconds is of the same wish (`timeout`
    signals twice, and others SIGTERM and SIGHUP together); what comes later ends the process at once. Also a decorator.
    """
    told: list[int] = []
    when = 0.0

    def end(number: int, frame: Any) -> None:
        nonlocal when
        if is_torch_loading():
            os._exit(128 + number)
        if not told:
            told.append(number)
            when = time.monotonic()
            sys.exit(128 + number)
        if time.monotonic() - when > SAME_REQUEST_SECONDS:
            os._exit(128 + told[0])

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # nohup has a closed terminal ignored, and whoever has set a handler keeps it
        usual = (signal.SIG_DFL, signal.default_int_handler, interrupt)
        before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) in usual}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        if told:
            sys.exit(128 + told[0])
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(message: str) -> NoReturn:
    """Ends the process with one line, which a launcher prints once for all of its processes."""
    if not write_worker_error(message):
        print(f"acmix: error: {message}", file=sys.stderr)
    sys.exit(2)
