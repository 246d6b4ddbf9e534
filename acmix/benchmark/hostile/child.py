"""One case in a process of its own, forked from a warm one: what it said, took, asked for and executed.

A forked process begins with everything imported, so that a case takes the time of its command alone. It has a group of
its own, which is killed with all it started when its time is over, and a bound on its memory, beyond which it fails as
on a small machine. Python's audit hooks see each connection and each program that is to be started; both are refused.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import runpy
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from acmix.ops import build

# what every case may need; what its command imports itself counts as its time
WARM = (
    "acmix.cli.commands",
    "acmix.tools.evaluate",
    "acmix.tools.predict_command",
    "acmix.tools.predict_drawings",
    "acmix.tools.convert",
    "acmix.tools.report",
    "acmix.tools.report_objects",
    "acmix.tools.report_pixels",
    "acmix.tools.compare_page",
    "acmix.tools.rates",
    "acmix.tools.settings",
    "acmix.train.loop",
    "acmix.train.plots",
    "acmix.data.coco",
    "acmix.tasks.detect",
    "acmix.tasks.segment",
    "acmix.heads.detectors",
    "acmix.heads.segmenters",
    "acmix.released.start",
    "acmix.released.yaml_read",
    "faster_coco_eval",
    "matplotlib.backends.backend_agg",
    "safetensors.torch",
    "torch.utils.tensorboard",
    "timm",
)
# seconds of work, and by the clock, where others have the machine; bytes above what the warm process has
LONGEST, BY_THE_CLOCK, MOST_MEMORY = 10, 60, 6 * 2**30
# processes that a case may fork, those that read images counted
MOST_FORKS = 80
# steps that a case may train
MOST_STEPS = 2
# characters of a line, and lines that say what was wrong
LONGEST_LINE, MOST_LINES = 2100, 12
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
# what a run itself asks, whatever it was given
OWN = (("git", "rev-parse"),)
PROGRAMS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")


@dataclass
class Result:
    """What became of a case.

    Args:
        status: of the process; below 0: the signal that ended it.
        seconds: that it took.
        mib: the most memory, of itself or of a process that it started.
        said: on standard error.
        noted: what the hooks saw, a line each.
        is_late: whether it was ended for its time.
    """

    status: int
    seconds: float
    mib: float
    said: str
    noted: list[str]
    is_late: bool

    @property
    def outcome(self) -> str:
        """One of refused, accepted, traceback, hang."""
        lines = self.said.strip().splitlines()
        if self.is_late:
            return "hang"
        if "Traceback (most recent call last)" in self.said or any(line.startswith("forks") for line in self.noted):
            return "traceback"
        if self.status in (0, 128 + signal.SIGTERM):
            return "accepted"
        is_bounded = 0 < len(lines) <= MOST_LINES and max(map(len, lines)) <= LONGEST_LINE
        is_told = self.status in (1, 2) and any(line.startswith("acmix: error: ") for line in lines)
        # ended by a signal, in many lines or in none
        return "refused" if is_bounded and is_told else "traceback"

    @property
    def requests(self) -> int:
        """1 if something was asked of a network."""
        return int(any(line.startswith("connects") for line in self.noted))

    @property
    def executed(self) -> int:
        """1 if a program was to be started, or code of the case ran."""
        return int(any(line.startswith("executes") for line in self.noted))


def warm_up() -> None:
    """Imports what the commands need, on one thread."""
    torch.set_num_threads(1)
    for name in WARM:
        importlib.import_module(name)
    # both ask programs of this machine once
    platform.processor()
    if build.why_not() is None:
        build.library()


def forked(call: Callable[[], Any], folder: Path, *, canary: Path | None = None, longest: float = LONGEST) -> Result:
    """Calls something in a forked process.

    Args:
        call: what; its `SystemExit` gives the status.
        folder: where it runs and what it says is kept.
        canary: a file that only executed code of the case would write.
        longest: seconds until it is ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    notes, told = os.pipe()
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        os.close(notes)
        in_child(call, folder, told)
    os.close(told)
    is_late = not ended_within(process, longest)
    if is_late:
        kill_group(process)
    _, status, used = os.wait4(process, 0)
    seconds = time.monotonic() - began
    # what it started may still be there
    kill_group(process)
    noted = read_all(notes)
    if canary is not None and canary.exists():
        noted.append("executes code of the file")
        canary.unlink()
    said = (folder / "stderr").read_bytes().decode(errors="replace")
    return Result(os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss / 1024, said, noted, is_late)


def ended_within(process: int, seconds: float) -> bool:
    """Whether a child ends in time; it is still to be waited for.

    It may work for so long, and the clock may run for `BY_THE_CLOCK` where others have the machine; a process that
    waits for nothing is given no more.
    """
    began = time.monotonic()
    opened = os.pidfd_open(process)
    try:
        while not select.select([opened], [], [], min(seconds, 1.0))[0]:
            waited = time.monotonic() - began
            if waited > seconds and (worked(process) > seconds or waited > seconds * BY_THE_CLOCK / LONGEST):
                return False
    finally:
        os.close(opened)
    return True


def worked(process: int) -> float:
    """Seconds that a process has had of a processor; its children's count when they have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def kill_group(process: int) -> None:
    """Ends a child, and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def read_all(pipe: int) -> list[str]:
    """The lines of a pipe whose writers are gone, but for one that lives on."""
    with open(pipe, "rb", buffering=0) as file:
        os.set_blocking(pipe, False)
        content = b""
        while part := file.read(2**16):
            content += part
    return content.decode(errors="replace").splitlines()


def in_child(call: Callable[[], Any], folder: Path, told: int) -> NoReturn:
    """The life of a forked process."""
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # those of Python may be a test's
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        bound = address_space() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        watch(told)
        stop_after_steps()
        call()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
        os._exit(status)


def address_space() -> int:
    """Bytes of this process's addresses."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def watch(told: int) -> None:
    """Notes what is asked of a network and what is to be executed, and refuses it."""
    forks = 0

    def hook(event: str, arguments: Any) -> None:
        nonlocal forks
        if event in CONNECTIONS and not is_local(event, arguments):
            os.write(told, noted("connects", event, arguments[-1]))
            raise OSError("no network in this trial")
        if event in PROGRAMS and not is_own(arguments):
            os.write(told, noted("executes", event, arguments[:2]))
            raise OSError("no programs in this trial")
        if event == "os.fork":
            forks += 1
            if forks > MOST_FORKS:
                os.write(told, f"forks more than {MOST_FORKS} processes\n".encode())
                raise OSError("no more processes in this trial")

    sys.addaudithook(hook)


def noted(what: str, event: str, about: Any) -> bytes:
    """A line on what was seen; never the environment, which arguments may hold."""
    return f"{what} {event} {about!r}"[:500].encode(errors="replace").replace(b"\n", b" ") + b"\n"


def is_local(event: str, arguments: Any) -> bool:
    """Whether a connection stays on this machine, as those between processes that read images."""
    return event in ("socket.connect", "socket.sendto") and isinstance(arguments[-1], (str, bytes))


def is_own(arguments: Any) -> bool:
    """Whether a program is one that a run starts whatever it was given."""
    words = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], (list, tuple)) else ()
    return tuple(words[:2]) in OWN


def stop_after_steps() -> None:
    """Ends a training that goes on beyond `MOST_STEPS` as Slurm would."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > MOST_STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    register_optimizer_step_post_hook(count)


def command(arguments: Sequence[str]) -> Callable[[], Any]:
    """`acmix ARGUMENTS` in this process."""

    def call() -> None:
        sys.argv = ["acmix", *arguments]
        runpy.run_module("acmix", run_name="__main__")

    return call


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
