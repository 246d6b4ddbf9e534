"""Processes that tests start and wait for.

They are forked from a server that has imported torch and the package once: a fresh interpreter needs seconds for that.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

# Seconds. Only what has failed waits that long; a loaded machine may be slow, and that is no failure.
PATIENCE = 300
# the signal at which a process and its children write to standard error where they are
WHERE = signal.SIGXCPU
IMPORTED = ["acmix.cli", "acmix.train.loop", "acmix.tools.evaluate", "acmix.tools.predict"]


class Ended(NamedTuple):
    """How a process ended; the status is negative where a signal ended it."""

    status: int
    output: str
    errors: str


class Forked:
    """One call in one or several processes; several find each other as torchrun's do.

    Each is the first of a process group of its own.

    Args:
        call: a function of a module; it gets the arguments.
        processes: how many.
        environment: what differs from this process's environment; None takes a variable out.
    """

    def __init__(
        self,
        call: Callable[..., object],
        *arguments: Any,
        processes: int = 1,
        environment: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(IMPORTED)
        self.folder = Path(tempfile.mkdtemp(prefix="acmix_test_"))
        world = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        self.processes = []
        for rank in range(processes):
            place = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            body = (call, arguments, {**place, **environment}, str(self.folder / str(rank)))
            self.processes.append(server.Process(target=run, args=body, daemon=False))
        for process in self.processes:
            process.start()

    def is_alive(self) -> bool:
        """Whether all of them still run."""
        return all(process.is_alive() for process in self.processes)

    def signal(self, number: int, *, rank: int | None = None, group: bool = False) -> None:
        """Sends a signal to all processes or to one, or to their groups, as a terminal does with Ctrl-C."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            assert process.pid is not None
            (os.killpg if group else os.kill)(process.pid, number)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits until a condition holds; fails at once where a process has ended before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = not self.is_alive()
            if ended and condition():
                return
            assert not ended, f"ended before that: {self.finish()}"
            assert time.monotonic() < deadline, f"not within {PATIENCE} s"
            time.sleep(0.02)

    def finish(self) -> list[Ended]:
        """How every process ended, once all have."""
        ends = []
        for rank, process in enumerate(self.processes):
            process.join(PATIENCE)
            said = ""
            if process.exitcode is None:
                self.signal(WHERE, group=True)
                time.sleep(1)
                said = (self.folder / f"{rank}.err").read_text()
                self.signal(signal.SIGKILL, group=True)
            assert process.exitcode is not None, f"process {rank} still runs after {PATIENCE} s: {said[-10_000:]}"
            output, errors = ((self.folder / f"{rank}.{kind}").read_text() for kind in ("out", "err"))
            ends.append(Ended(process.exitcode, output, errors))
        shutil.rmtree(self.folder)
        return ends


def command(*arguments: str | Path, processes: int = 1, **environment: str | None) -> Forked:
    """Starts `python -m acmix ARGUMENTS`."""
    return Forked(run_module, "acmix", list(map(str, arguments)), processes=processes, environment=environment)


def python(code: str, *arguments: str | Path, **environment: Any) -> Ended:
    """Runs `python -c CODE ARGUMENTS` to its end, where torch and the package are imported already."""
    [end] = Forked(run_code, code, list(map(str, arguments)), environment=environment).finish()
    return end


def module(name: str, *arguments: str | Path, **environment: Any) -> Ended:
    """Runs `python -m NAME ARGUMENTS` to its end, where torch and the package are imported already."""
    [end] = Forked(run_module, name, list(map(str, arguments)), environment=environment).finish()
    return end


def script(file: Path, *arguments: str | Path, **environment: Any) -> Ended:
    """Runs `python FILE ARGUMENTS` to its end, where torch and the package are imported already."""
    [end] = Forked(run_script, str(file), list(map(str, arguments)), environment=environment).finish()
    return end


def run_module(name: str, arguments: list[str]) -> None:
    """What `python -m NAME` does."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_script(file: str, arguments: list[str]) -> None:
    """What `python FILE` does."""
    sys.argv = [file, *arguments]
    sys.path.insert(0, str(Path(file).parent))
    runpy.run_path(file, run_name="__main__")


def run_code(code: str, arguments: list[str]) -> None:
    """What `python -c CODE` does."""
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def run(
    call: Callable[..., object], arguments: tuple[Any, ...], environment: dict[str, str | None], place: str
) -> None:
    """A process's body: the call, its output in files."""
    os.setsid()
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{place}.{kind}", os.O_CREAT | os.O_WRONLY), number)
    # tests may run under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    faulthandler.register(WHERE)
    # what the server imported is not looked through again by every collection that a benchmark asks for
    gc.freeze()
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # the server may have looked for the folder of temporary files already, where TMPDIR was another one
    tempfile.tempdir = None
    torch.set_num_threads(1)
    # as in a process that a user starts; this one's own way would be handed down
    multiprocessing.set_start_method(None, force=True)
    call(*arguments)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])
