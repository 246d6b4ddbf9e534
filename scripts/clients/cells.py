"""Runs one measurement in a process of its own, so that a tool that fails, hangs or patches leaves the others alone."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Fault, Figures, NotApplicable

SECONDS = 400


def apart(call: Callable[[], Figures]) -> Figures | Fault:
    """What a call gives, or the error that ends it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = context.Process(target=body, args=(call, sender, log))
        process.start()
        sender.close()
        finished = receiver.poll(SECONDS)
        try:
            found = receiver.recv() if finished else Fault(f"hangs: no answer within {SECONDS} s")
        except EOFError:
            process.join()
            found = Fault(last_error(log.read_text(errors="replace")) or f"ended with status {process.exitcode}")
        if not finished and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return found


def body(call: Callable[[], Figures], sender: Any, log: Path) -> None:
    """The child's part; an error goes into the log as Python prints it."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = str(log.parent)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        found: Figures | Fault = call()
    except NotApplicable as reason:
        found = Fault(f"does not apply: {reason}")
    sender.send(found)


def last_error(log: str) -> str:
    """The line of a traceback that names the error."""
    frames = log.rpartition('\n  File "')[2].splitlines() if '\n  File "' in log else []
    lines = [line for line in frames[1:] if re.match(r"[A-Za-z_][\w.]*(:|$)", line)]
    return " ".join(lines[0].split())[:200] if lines else ""
