"""A damaged newest checkpoint with a whole one from before it: the run goes on from there, to the same bits."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from acmix.benchmark.faults.flips import content_is, damage
from acmix.benchmark.faults.forked import run
from acmix.benchmark.faults.record import Case, Kept, by_kind
from acmix.benchmark.kills import LONGEST, Kill
from acmix.benchmark.small_runs import Setting, call, data_of, same
from acmix.released.safe_load import safe_load

HOW = ("truncated", "flipped", "emptied")
# the step at which one of the two runs is killed
KILLED_AT = 14
WANTED = ("went on from the one before", "went on from the newest: same content", "equal")


class AtStep(Kill):
    """A kill when a run has taken so many steps of this call.

    Args:
        step: which is to be in its log.
        beyond: of the steps that a log has already, none counts: how many of its bytes are from calls before.
    """

    def __init__(self, step: int, draw: random.Random, *, one: bool = False, beyond: int = 0) -> None:
        super().__init__(0.0, one, draw)
        self.step, self.beyond = step, beyond

    def wait(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Waits until the log holds the step."""
        until = time.monotonic() + LONGEST
        while process.poll() is None:
            if steps_logged(output) >= self.step or time.monotonic() > until:
                raise subprocess.TimeoutExpired(process.args, 0)
            time.sleep(0.02)


def steps_logged(output: Path) -> int:
    """The last step that a run's log holds."""
    try:
        text = (output / "log.jsonl").read_text(encoding="utf-8")
    except OSError:
        return 0
    marks = [line for line in text.splitlines() if '"event": "step"' in line or '"event":"step"' in line]
    return int(json.loads(marks[-1])["step"]) if marks and marks[-1].endswith("}") else 0


def torn(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """Damages last.pt of a finished run and of one that was killed in the middle, in turn, and has them go on."""
    place = folder / "torn"
    killed = place / "killed"
    if not (place / "killed.ready").is_file():
        shutil.rmtree(killed, ignore_errors=True)
        call(setting, folder, killed, AtStep(KILLED_AT, random.Random(0)))
        (place / "killed.ready").touch()
    found = kept.each("torn", cases, partial(one, setting, folder, (setting.whole, killed)))
    return by_kind("torn", found, WANTED)


def one(setting: Setting, folder: Path, runs: tuple[Path, ...], number: int) -> Case:
    """Damages a copy of one of the runs and has it go on."""
    draw, source = random.Random(f"torn {number}"), runs[number % len(runs)]
    output = folder / "torn" / "run"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(source, output)
    newest = output / "checkpoints" / "last.pt"
    original, how = safe_load(newest), damage(newest, draw, HOW[number % len(HOW)])
    is_same = content_is(newest, original)
    data = data_of(setting.kind, folder)
    ended = run(["train", setting.config, "--data", data, "--output", output, *setting.overrides], folder / "said")
    said = " ".join(ended.said.split())
    case = Case(how.split()[0], [], how)
    if ended.status or ended.is_traceback:
        return Case(case.what, ["traceback" if ended.is_traceback else "failed"], ended.line)
    if "going on from last-1.pt" in said:
        case.outcomes.append("went on from the one before")
        case.line = next((" ".join(line.split()) for line in ended.said.splitlines() if "is " in line), how)
    else:
        case.outcomes.append("went on from the newest" + (": same content" if is_same else ""))
    case.outcomes.append("equal" if same(setting.whole, output) else "different")
    return case
