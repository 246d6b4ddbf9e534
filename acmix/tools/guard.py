"""The end of every command: an exit status, and one line where a user can mend what is wrong."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from acmix import memory
from acmix.errors import UsageError
from acmix.train.signals import Stopped
from acmix.train.worker_error import Failed, LostOthers, is_launched, write_worker_error

# no space is left: on the disk, or of what a user may take of it
FULL = (errno.ENOSPC, errno.EDQUOT)


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
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        os._exit(130)
    signal.default_int_handler(number, frame)


def fail(message: str) -> NoReturn:
    """Ends the process with one line, which a launcher prints once for all of its processes."""
    if not write_worker_error(message):
        print(f"acmix: error: {message}", file=sys.stderr)
    sys.exit(2)
