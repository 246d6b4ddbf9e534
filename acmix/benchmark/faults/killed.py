"""One rank of two, or the launcher, killed in the middle of an epoch."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from acmix.benchmark.faults.record import Case, Kept, by_kind
from acmix.benchmark.faults.torn import AtStep
from acmix.benchmark.kills import descendants, moment_of
from acmix.benchmark.small_runs import Setting, call, same

# of 15 steps in three epochs of five: those in the middle of an epoch
STEPS, STEPS_PER_EPOCH = 15, 5
# seconds within which no process of a killed launcher may be left
PATIENCE = 60.0


def step_of(draw: random.Random) -> int:
    """A step in the middle of an epoch."""
    return draw.choice([step for step in range(1, STEPS) if step % STEPS_PER_EPOCH not in (0, STEPS_PER_EPOCH - 1)])


def ranks(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """Kills one of two ranks; the launcher is to start both again, and the run to end as if nothing had happened."""
    found = kept.each("rank", cases, partial(one_rank, setting, folder))
    return by_kind("rank", found, ("restarted", "equal"))


def one_rank(setting: Setting, folder: Path, number: int) -> Case:
    """Kills one of two ranks once."""
    draw, output = random.Random(f"rank {number}"), folder / "rank" / f"run_{number}"
    status, said, kill = 0, "", AtStep(0, draw)
    # a run that ended before its moment is no case
    while not kill.moment:
        kill = AtStep(step_of(draw), draw, one=True)
        status, said = call(setting, folder, anew(output), kill)
    printed = output.with_suffix(".printed").read_text(encoding="utf-8", errors="replace")
    outcomes = ["restarted" if "starting all again" in printed else "not restarted"]
    outcomes.append(survived(setting, output, status))
    line = next((line for line in printed.splitlines() if "starting all again" in line), said)
    if number == 0:
        print(printed)
    return Case("one rank of two", outcomes, line)


class OfLauncher(AtStep):
    """SIGKILL for a launcher alone, or its group.

    Args:
        group: whether its group.
    """

    def __init__(self, step: int, draw: random.Random, *, group: bool) -> None:
        super().__init__(step, draw)
        self.group, self.at = group, 0.0
        self.left: list[int] = []

    def strike(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Sends it, and notes which processes are there."""
        self.left = [process.pid, *descendants(process.pid)]
        self.moment = moment_of(output)
        (os.killpg if self.group else os.kill)(process.pid, signal.SIGKILL)
        self.at = time.monotonic()
        process.wait()
        while time.monotonic() - self.at < PATIENCE and (still := [each for each in self.left if is_alive(each)]):
            self.left = still
            time.sleep(0.1)
        self.left = [each for each in self.left if is_alive(each)]
        self.at = time.monotonic() - self.at


def is_alive(process: int) -> bool:
    """Whether a process is there, and more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def launcher(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """Kills the launcher alone and with its group, in turn; the same command then goes on."""
    found = kept.each("launcher", cases, partial(one_launcher, setting, folder))
    wanted = ("0 processes left", "equal")
    return by_kind("launcher", found, wanted, lambda cases: f"gone within {max(each.seconds for each in cases):.1f} s")


def one_launcher(setting: Setting, folder: Path, number: int) -> Case:
    """Kills the launcher once."""
    draw, output = random.Random(f"launcher {number}"), folder / "launcher" / f"run_{number}"
    kill = OfLauncher(0, draw, group=number % 2 == 1)
    while not kill.moment:
        kill = OfLauncher(step_of(draw), draw, group=number % 2 == 1)
        call(setting, folder, anew(output), kill)
    outcomes = [f"{len(kill.left)} processes left"]
    status, said = call(setting, folder, output)
    outcomes.append(survived(setting, output, status))
    return Case("its group" if kill.group else "it alone", outcomes, said, round(kill.at, 1))


def anew(output: Path) -> Path:
    """The place of a run, empty."""
    shutil.rmtree(output, ignore_errors=True)
    output.with_suffix(".printed").unlink(missing_ok=True)
    return output


def survived(setting: Setting, output: Path, status: int) -> str:
    """Whether a run ended like the undisturbed one; its folder is kept where it did not."""
    if status != 0:
        return f"failed with status {status}"
    if not same(setting.whole, output):
        return "different"
    shutil.rmtree(output)
    return "equal"
