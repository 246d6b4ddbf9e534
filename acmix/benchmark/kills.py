"""SIGKILL at a moment of a run, told by what lies in its folder; the processes below it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# what one call may take before it counts as hanging, in seconds
LONGEST = 300
# the status of a call that hung, or left processes behind; no process has it
FAULT = -1000
# seconds in which what a killed run left ends by itself
LONGEST_END = 60


@dataclass
class Kill:
    """One kill.

    Args:
        after: seconds from the start of a call, or from its first step.
        one: of two processes, whether one alone is killed.
        draw: of which.
        from_first_step: whether `after` counts from there.
        moment: is set to what the run was doing, "" where it had ended.
    """

    after: float
    one: bool
    draw: random.Random
    from_first_step: bool = False
    moment: str = ""

    def wait(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Waits for its moment.

        Raises:
            TimeoutExpired: it has come, and the process still runs.
        """
        if self.from_first_step:
            steps, until = steps_in(output), time.monotonic() + LONGEST
            while process.poll() is None and steps_in(output) == steps and time.monotonic() < until:
                time.sleep(0.01)
        process.wait(self.after)

    def strike(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Sends SIGKILL."""
        self.moment = moment_of(output)
        workers = descendants(process.pid) if self.one else []
        workers = [each for each in workers if is_trainer(each)]
        try:
            if workers:
                os.kill(self.draw.choice(workers), signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.moment = ""


def steps_in(output: Path) -> int:
    """Steps in a run's log."""
    try:
        return (output / "log.jsonl").read_text(encoding="utf-8").count('"event": "step"')
    except OSError:
        return 0


def moment_of(output: Path) -> str:
    """What a run is doing, by what is in its folder."""
    if list((output / "checkpoints").glob(".*.tmp")):
        return "writing"
    try:
        last = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    except (OSError, IndexError):
        return "starting"
    if '"event": "start"' in last or '"event":"start"' in last:
        return "starting"
    record = json.loads(last)
    step, steps = record.get("step", 0), record.get("steps_per_epoch") or steps_of(output)
    return "evaluating" if record["event"] == "step" and steps and step % steps == 0 else "training"


def steps_of(output: Path) -> int:
    """Steps an epoch, as the log's first line says them."""
    with (output / "log.jsonl").open(encoding="utf-8") as file:
        return int(json.loads(file.readline()).get("steps_per_epoch", 0))


def descendants(process: int) -> list[int]:
    """The processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(each) for each in task.read_text().split()]
        except OSError:
            continue
        for each in children:
            found += [each, *descendants(each)]
    return found


def is_trainer(process: int) -> bool:
    """Whether a process is one of `acmix train`, not a launcher and no reader, which it is the parent of."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        of_parent = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"train" in words and b"train" not in of_parent


def stayed(output: Path, longest: float = LONGEST_END) -> list[int]:
    """The processes that still run for a folder after a while: those of a killed launcher end by themselves.

    Args:
        output: the run's folder.
        longest: seconds to wait for their end.
    """
    until = time.monotonic() + longest
    looks_without = 0  # two in a row tell: a process that is just being started has no arguments for a moment
    while True:
        found = [int(each.name) for each in Path("/proc").glob("[0-9]*") if is_for(each, output)]
        looks_without = 0 if found else looks_without + 1
        if looks_without == 2 or (found and time.monotonic() > until):
            return found
        time.sleep(0.2)


def is_for(place: Path, output: Path) -> bool:
    """Whether a process trains into a folder: by an argument of it, or by its OUTPUT, as `run.sh` hands it on."""
    try:
        words = (place / "cmdline").read_bytes().split(b"\0"), (place / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{output}".encode() in words[0] or f"OUTPUT={output}".encode() in words[1]
