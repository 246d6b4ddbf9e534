"""Where a run cannot write: a file system that fills up, another user's folder, a folder that another host holds."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from acmix.benchmark.faults.forked import Ended, Forked, command
from acmix.benchmark.faults.record import Case, Kept, by_kind
from acmix.benchmark.faults.torn import AtStep
from acmix.benchmark.kills import LONGEST
from acmix.benchmark.small_runs import Setting, call, data_of, same
from acmix.errors import UsageError
from acmix.train import checkpoint, lock
from acmix.train.files import versions
from acmix.train.lock import Holder

MIB = 64
# when the disk is filled up, by steps: in the middle of each epoch and before its end
STEPS = (4, 8, 14, 18, 24)
NOBODY = 65534
OTHER_HOST = "another-host"
WANTED = ("one line", "readable", "equal", "refused", "taken over", "not done")


def disk(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """All of them; they are as many as there are functions here, whatever `cases` says."""
    tried: list[Callable[[], Case]] = [
        *(partial(full_disk, setting, folder, step) for step in STEPS),
        *(partial(anothers_folder, setting, folder, which) for which in ANOTHERS),
        partial(dead_holder, setting, folder),
        partial(dying_holder, setting, folder),
    ]
    found = kept.each("disk", len(tried), lambda number: tried[number]())
    return by_kind("disk", found, WANTED, seconds_of)


def seconds_of(cases: list[Case]) -> str:
    """How long folders were waited for."""
    longest = max(case.seconds for case in cases)
    return f"after {longest:.0f} s" if longest else ""


def not_done(what: str, why: str) -> Case:
    """A case that this machine does not allow."""
    return Case(what, ["not done"], why)


# --- a full disk --------------------------------------------------------------------------------------------------


class FillsUp(AtStep):
    """Fills the file system up at a step, and leaves the run to itself."""

    def strike(self, process: subprocess.Popen[bytes], output: Path) -> None:
        """Writes until nothing more fits."""
        self.moment = ""
        with suppress(OSError), open(output / "filler", "wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        with suppress(OSError), open(output / "filler", "ab", buffering=0) as file:
            while file.write(b"0"):
                pass


def full_disk(setting: Setting, folder: Path, step: int) -> Case:
    """A run on a file system of its own, which is full from a step on; then there is space again."""
    what, output = f"{MIB} MiB filled up during training", folder / "disk" / "run"
    with mounted(output) as why:
        if why:
            return not_done(what, why)
        output.with_suffix(".printed").unlink(missing_ok=True)
        status, said = call(setting, folder, output, FillsUp(step, random.Random(step)))
        printed = output.with_suffix(".printed").read_text(encoding="utf-8", errors="replace")
        outcomes = ["one line" if status == 2 and "Traceback" not in printed else f"status {status}"]
        if outcomes != ["one line"]:
            print(printed)
        outcomes += [is_readable(each) for each in versions(output / "checkpoints" / "last.pt")]
        outcomes += [is_readable(each) for each in versions(output / "checkpoints" / "best.pt")]
        (output / "filler").unlink()
        status, after = call(setting, folder, output)
        if status:
            return Case(what, [*outcomes, f"afterwards status {status}"], after)
        outcomes.append("equal" if same(setting.whole, output) else "different")
        return Case(what, outcomes, said.replace(str(folder), "DIR"))


def is_readable(file: Path) -> str:
    """Whether a checkpoint is whole."""
    try:
        checkpoint.read(file)
    except UsageError as error:
        return f"damaged: {error}"
    return "readable"


@contextmanager
def mounted(place: Path) -> Iterator[str]:
    """A small file system of its own at a place, for the block; gives why there is none."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield "only root may mount a file system"
        return
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", place], capture_output=True)
    if done.returncode:
        yield f"a file system cannot be mounted here: {done.stderr.decode(errors='replace').strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", place], check=True)


# --- another user's folder ------------------------------------------------------------------------------------------

# by what it is: permissions of the folder above, which holds a run already or not
ANOTHERS = {
    "another user's folder, new run": 0o755,
    "another user's run": 0o755,
    "another user's, not to be seen": 0o700,
}


def anothers_folder(setting: Setting, folder: Path, what: str) -> Case:
    """A run as another user into a folder of this one."""
    if os.geteuid() != 0:
        return not_done(what, "only root may act as another user")
    # where another user may go
    with tempfile.TemporaryDirectory(prefix="acmix_another_") as place:
        above = Path(place)
        above.chmod(0o755)
        config = Path(shutil.copy(setting.config, above / setting.config.name))
        data = Path(shutil.copytree(data_of(setting.kind, folder), above / "images"))
        home = above / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        output = above / "folder" / "run"
        output.parent.mkdir()
        if what == "another user's run":
            shutil.copytree(setting.whole, output)
        before = contents_of(output.parent)
        output.parent.chmod(ANOTHERS[what])
        arguments = ["train", config, "--data", data, "--output", output, *setting.overrides, "train.epochs=4"]

        def call() -> None:
            os.environ["HOME"] = str(home)
            os.chdir(home)
            command(arguments)()

        ended = Forked(call, folder / "disk" / "said", user=NOBODY).finish()
        output.parent.chmod(0o755)
        outcomes = [of_refusal(ended)]
        if contents_of(output.parent) != before:
            outcomes.append("changed")
        return Case(what, outcomes, ended.line.replace(place, "DIR"))


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def of_refusal(ended: Ended) -> str:
    """Whether a run was refused in one line."""
    if ended.is_traceback:
        return "traceback"
    lines = [line for line in ended.said.splitlines() if line.startswith("acmix: error: ")]
    return "refused" if ended.status == 2 and len(lines) == 1 else f"status {ended.status}"


# --- a folder that another host holds -------------------------------------------------------------------------------


def held_elsewhere(output: Path, *, silent_for: float) -> Path:
    """Writes what a process on another host leaves in a folder that it holds, with the time of its last sign."""
    holder = Holder(OTHER_HOST, "another-start", 4321, "1", time.time() - silent_for)
    file = output / lock.NAME
    file.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    os.utime(file, (holder.since, holder.since))
    return file


def half_done(setting: Setting, folder: Path) -> Path:
    """A run that was killed in its second epoch."""
    output, killed = folder / "disk" / "held", folder / "disk" / "killed"
    if not killed.is_dir():
        call(setting, folder, killed, AtStep(14, random.Random(0)))
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(killed, output, ignore=shutil.ignore_patterns(lock.NAME))
    return output


def start(setting: Setting, folder: Path, output: Path) -> Forked:
    """Starts the command again."""
    data = data_of(setting.kind, folder)
    arguments = ["train", setting.config, "--data", data, "--output", output, *setting.overrides]
    return Forked(command(arguments), folder / "disk" / "said")


def taken_over(setting: Setting, output: Path, ended: Ended) -> list[str]:
    """Whether a run that waited for a dead holder went on, to the same bits."""
    if ended.status or f"taking {output} over" not in ended.said:
        return [f"status {ended.status}: {ended.line}"]
    return ["taken over", "equal" if same(setting.whole, output) else "different"]


def wait_for(line: str, running: Forked) -> float:
    """Seconds until a running command says something."""
    began = time.monotonic()
    while time.monotonic() - began < LONGEST:
        if running.said.is_file() and line in running.said.read_text(encoding="utf-8", errors="replace"):
            break
        time.sleep(0.05)
    return time.monotonic() - began


def dead_holder(setting: Setting, folder: Path) -> Case:
    """A folder held by a process of another host that died an hour ago."""
    output = half_done(setting, folder)
    held_elsewhere(output, silent_for=3600.0)
    running = start(setting, folder, output)
    wait_for("waiting ", running)
    seconds = wait_for(f"taking {output} over", running)
    ended = running.finish()
    lines = [" ".join(line.split()) for line in ended.said.splitlines() if OTHER_HOST in line]
    line = " / ".join(lines).replace(str(folder), "DIR")
    return Case("held by a dead process on another host", taken_over(setting, output, ended), line, seconds)


def dying_holder(setting: Setting, folder: Path) -> Case:
    """A folder held by a process of another host that gives a sign, then dies."""
    output = half_done(setting, folder)
    file = held_elsewhere(output, silent_for=5.0)
    running = start(setting, folder, output)
    wait_for("waiting ", running)
    time.sleep(2.0)
    os.utime(file)
    last_sign = time.monotonic()
    refused = running.finish()
    lines = [refused.line]
    running = start(setting, folder, output)
    wait_for(f"taking {output} over", running)
    seconds = time.monotonic() - last_sign
    ended = running.finish()
    outcomes = [of_refusal(refused), *taken_over(setting, output, ended)]
    lines += [" ".join(line.split()) for line in ended.said.splitlines() if OTHER_HOST in line]
    line = " / ".join(lines).replace(str(folder), "DIR")
    return Case("held by a process on another host that then dies", outcomes, line, seconds)
