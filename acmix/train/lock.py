"""One run, one folder: who trains into a folder holds it, and says who that is.

`.held` in the folder names the holder, and is locked by it where the file system has locks. The holder's thread touches
it every `BEAT` seconds, so that a machine that cannot see the holder's processes sees whether there is one: a file that
stands still for `SILENCE` seconds is a dead holder's, and is taken over. On one machine that is known at once.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acmix.errors import UsageError
from acmix.train.words import output_option

NAME = ".held"
BEAT, SILENCE = 10.0, 35.0
# most bytes of a file that says who holds a folder
MOST = 10_000


@dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Args:
        host: name of the machine.
        boot: what tells this start of the machine from others, where it says so.
        process: its number.
        started: when the process started, as its machine counts, where it says so.
        since: when it took the folder, in seconds since 1970.
    """

    host: str
    boot: str
    process: int
    started: str
    since: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host} (since {when})"

    @property
    def is_here(self) -> bool:
        """Whether its processes are visible from here."""
        return (self.host, self.boot) == (socket.gethostname(), boot())

    @property
    def lives(self) -> bool:
        """Whether the process is there, on this machine."""
        return self.started == started(self.process) if self.started else is_there(self.process)


def myself() -> Holder:
    """This process."""
    return Holder(socket.gethostname(), boot(), os.getpid(), started(os.getpid()), time.time())


def boot() -> str:
    """What tells this start of the machine from others; "" where it does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def started(process: int) -> str:
    """When a process started, as its machine counts; "" for one that is not there, and where nothing is known."""
    with suppress(OSError, IndexError):
        # behind the name, which may hold spaces and brackets
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def is_there(process: int) -> bool:
    """Whether a process of this number is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Taken(Exception):
    """Another process holds the folder."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__()
        self.holder = holder


@contextmanager
def held(
    folder: Path, say: Callable[[str], None] = lambda line: None, *, doing: str = "training into", other: str = ""
) -> Iterator[None]:
    """Keeps other processes from a folder in the block, on this machine and on others; on Windows it keeps nobody.

    Args:
        folder: it is there.
        say: is told of a wait, and of a holder that died.
        doing: what a holder does with the folder, and
        other: what to choose in place of it, for messages.

    Raises:
        UsageError: another process holds the folder; says which.
    """
    if os.name == "nt":
        # a file that is open can neither be removed there nor touched, and nothing tells who lives
        yield
        return
    try:
        file = opened(folder)
    except Taken as taken:
        raise refusal(folder, taken.holder, doing, other) from None
    except OSError:
        # whoever writes into the folder says why it cannot
        yield
        return
    done = threading.Event()
    beating = threading.Thread(target=beat, args=(file, done), daemon=True)
    try:
        try:
            wait_for_others(folder, file, say)
        except Taken as taken:
            raise refusal(folder, taken.holder, doing, other) from None
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(myself())).encode(), 0)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()
            with suppress(OSError):
                os.unlink(folder / NAME)
    finally:
        os.close(file)


def opened(folder: Path) -> int:
    """The file, open and locked; no lock where the file system has none.

    Raises:
        Taken: another process has it locked.
    """
    place = folder / NAME
    while True:
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(file)
            # another holder may have removed it since
            if os.path.samestat(os.fstat(file), os.stat(place)):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            holder = read(file)
            os.close(file)
            raise Taken(holder) from None
        os.close(file)


def lock(file: int) -> None:
    """Locks a file where system and file system can.

    Raises:
        BlockingIOError: another process has it.
    """
    try:
        import fcntl  # not on Windows

        # not flock, which the processes that read images would inherit and might keep
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError from error


def read(file: int) -> Holder | None:
    """Who a file says holds the folder; None where it says nothing that can be read.

    It is read through the open file: closing another one would give up this process's lock.
    """
    try:
        told: Any = json.loads(os.pread(file, MOST, 0))
        holder = Holder(**told)
        kinds = {"host": str, "boot": str, "process": int, "started": str, "since": (int, float)}
        return holder if all(isinstance(told[key], kind) for key, kind in kinds.items()) else None
    except (ValueError, TypeError, OSError):
        return None


def wait_for_others(folder: Path, file: int, say: Callable[[str], None]) -> None:
    """Waits until it is known that whom the file names does not live.

    Raises:
        Taken: it lives.
    """
    holder = read(file)
    if holder is None:
        return
    if holder.is_here:
        if holder.process != os.getpid() and holder.lives:
            # on a file system without locks
            raise Taken(holder)
        return
    say(f"{folder} was held by {holder}: waiting {SILENCE:.0f} s for a sign of it")
    seen, until = os.fstat(file).st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE / 10))
        if os.fstat(file).st_mtime_ns != seen:
            raise Taken(holder)
    say(f"no sign of {holder}: taking {folder} over")


def refusal(folder: Path, holder: Holder | None, doing: str, other: str) -> UsageError:
    """What to say where a folder is held."""
    who = f"another process is {doing} {folder}" + (f": {holder}" if holder else "")
    return UsageError(f"{who}; wait until it ends, or choose another {other or output_option()}")


def beat(file: int, done: threading.Event) -> None:
    """Touches the file until it is done."""
    while not done.wait(BEAT):
        with suppress(OSError):
            os.utime(file)
