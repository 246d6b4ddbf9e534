"""Calls in processes forked from this one: a fresh interpreter would load torch and acmix for seconds each time."""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acmix.tools.guard import guarded

# what commands load when they are called
LOADED = (
    *("acmix.cli.commands", "acmix.train.loop", "acmix.tools.evaluate", "acmix.tools.predict_command"),
    *("acmix.tools.convert", "acmix.tools.report", "acmix.tools.compare_page", "acmix.tools.rates", "acmix.tools.load"),
    *("acmix.tools.exports", "torch.utils.tensorboard", "matplotlib.pyplot", "safetensors.torch"),
    *("matplotlib.backends.backend_svg", "acmix.models"),
)
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Args:
        status: negative where a signal ended it.
        said: all that it printed.
    """

    status: int
    said: str

    @property
    def line(self) -> str:
        """The last line."""
        return next((line for line in reversed(self.said.splitlines()) if line.strip()), "").strip()

    @property
    def is_traceback(self) -> bool:
        """Whether it ended in one, or was ended by a signal."""
        return self.status < 0 or TRACEBACK in self.said


def load_all() -> None:
    """Loads what commands will load; nothing may compute in this process, whose threads would not come along."""
    import torch

    torch.set_num_threads(1)
    for name in LOADED:
        importlib.import_module(name)


class Forked:
    """A call in a process of its own.

    Args:
        call: as a command's body: what it raises ends as in a command.
        said: the file that gets what it prints.
        user: the number of the user as whom it runs; None: as this process.
    """

    def __init__(self, call: Callable[[], object], said: Path, *, user: int | None = None) -> None:
        self.said = said
        said.parent.mkdir(parents=True, exist_ok=True)
        # what an earlier call said there
        said.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            self.run(call, user)

    def run(self, call: Callable[[], object], user: int | None) -> None:
        """The body; never returns."""
        status = 1
        try:
            os.setsid()
            file = os.open(self.said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.dup2(file, 1)
            os.dup2(file, 2)
            # whatever this process had in their place
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            guarded(call)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            if (met := sys.exc_info()[1]) is not None:
                traceback.print_exception(met)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def finish(self, seconds: float = 300.0) -> Ended:
        """How it ended; one that takes longer is killed."""
        until = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                return Ended(code, self.said.read_text(encoding="utf-8", errors="replace"))
            if time.monotonic() > until:
                os.killpg(self.process, signal.SIGKILL)
            time.sleep(0.01)


def command(arguments: Sequence[str | Path]) -> Callable[[], None]:
    """The body of `acmix ARGUMENTS`."""

    def call() -> None:
        sys.argv = ["acmix", *map(str, arguments)]
        runpy.run_module("acmix", run_name="__main__")

    return call


def run(arguments: Sequence[str | Path], said: Path) -> Ended:
    """Runs `acmix ARGUMENTS` to its end."""
    return Forked(command(arguments), said).finish()
