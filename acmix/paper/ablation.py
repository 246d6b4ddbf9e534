"""Trains a grid of runs, some at a time.

Each run is an `acmix train` of its own in a process of its own. It resumes to the bit, with the threads that the grid
was begun with, so a grid that was stopped, or killed, goes on with the same command. Every run that was started is in
the table.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.paper.ahead import check_arms
from acmix.paper.grid import Grid
from acmix.paper.runs import (
    DONE,
    FAILED,
    LOG,
    STARTED,
    TABLE,
    Run,
    check_folder,
    kept,
    last_line,
    runs_of,
    to_do,
    write_runs,
)
from acmix.paper.threads import environment, in_words, keep, threads_of
from acmix.train.files import make_place
from acmix.train.lock import held
from acmix.train.log import duration
from acmix.train.run_folder import differences, look_into
from acmix.train.signals import Stopped, StopRequest
from acmix.train.words import LAUNCHER_PROCESS

# seconds between looks at the runs, and between lines on how far they are
LOOK, SAY = 0.5, 60.0
# seconds that runs get to write their checkpoints when the grid is stopped
GRACE = 120.0
# what is said when nothing was wrong with the call
BEGUN = "runs are done"


def ablation(grid: Grid, data: str, output: Path, *, jobs: int | None = None) -> Iterator[str]:
    """Trains what is missing of a grid, and says how far it is.

    Args:
        grid: of the runs.
        data: the images, as `acmix train --data` takes them.
        output: the folder of the runs and of the table, `runs.csv`.
        jobs: runs at the same time; the cores by default.

    Raises:
        UsageError: a grid that does not fit, or a folder that holds another one or is in use.
        Stopped: by a signal; the runs have saved where they were.
    """
    place = checked(grid, data, output, jobs)
    kept(grid, output)
    with held(output, doing="training the grid in"), StopRequest() as stop:
        check_begun(grid, place, output)
        runs = runs_of(grid, output)
        waiting = to_do(runs)
        done = len(runs) - len(waiting)
        # of all runs, so that it does not hang on how many are left
        threads, is_begun = threads_of(runs, output, min(jobs or cores(), len(runs)))
        keep(threads, output)
        jobs = min(jobs or max(1, cores() // threads), max(1, len(waiting)))
        write_runs(runs, output / TABLE)
        yield f"{grid.name}: {grid.question}"
        yield (
            f"{len(grid.arms)} arms × {len(grid.seeds)} seeds: {done} of {len(runs)} {BEGUN}; {jobs} at a time "
            f"with {in_words(threads)} each{', as it was begun' * is_begun}"
        )
        yield from train_all(grid, place, output, runs, waiting, jobs, threads, stop)
    if stop.signal:
        said = "the runs have saved; the same command goes on"
        yield said
        raise Stopped(stop.signal, said)


def checked(grid: Grid, data: str, output: Path, jobs: int | None) -> str:
    """The data's place, after a look at everything that can be wrong before a run starts.

    Raises:
        UsageError: as `ablation`.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}; expected at least 1")
    place = os.path.abspath(data) if os.path.exists(data) else data
    grid.check(place)
    check_folder(grid, output)
    if to_do(runs_of(grid, output)):
        check_arms(grid, place, output)
    return place


def check_begun(grid: Grid, data: str, output: Path) -> None:
    """Refuses to go on beside runs of other settings: of other data, or of a configuration that was changed since.

    Raises:
        UsageError: names the run and the setting.
    """
    for arm, seed in grid.runs():
        folder = output / Run(grid.name, arm, seed).name
        found = look_into(folder)
        if found is None or found.settings is None:
            continue
        changed = differences(found, grid.configuration(arm, seed, data), 1)
        for key, (was, now) in changed.items():
            raise UsageError(
                f"{folder} was begun with {key} {was!r}, and is asked for with {now!r}; arms are compared under the "
                "same settings: name another folder with --output"
            )


def train_all(
    grid: Grid,
    data: str,
    output: Path,
    runs: Sequence[Run],
    waiting: list[Run],
    jobs: int,
    threads: int,
    stop: StopRequest,
) -> Iterator[str]:
    """Keeps so many runs going until none is left, or a signal comes."""
    going: dict[subprocess.Popen[bytes], Run] = {}
    began = said = time.monotonic()
    # epochs of runs that were there already are not what passes from now on
    at_start = sum(each.progress(output) for each in waiting)
    count = len(waiting)
    try:
        while (waiting or going) and not stop.signal:
            while waiting and len(going) < jobs:
                wait_until_free(output / waiting[0].name, stop)
                if stop.signal:
                    break
                run = waiting.pop(0)
                run.status = STARTED
                going[start(grid, run, data, output, threads)] = run
                write_runs(runs, output / TABLE)
            time.sleep(LOOK)
            ended = []
            for process in [each for each in going if each.poll() is not None]:
                ended.append(going.pop(process))
                close(ended[-1], process.returncode, output)
                write_runs(runs, output / TABLE)
            if ended or time.monotonic() - said > SAY:
                gone = count - len(waiting) - len(going) + sum(each.progress(output) for each in going.values())
                left = left_of(time.monotonic() - began, gone - at_start, count - gone)
                for run in ended:
                    yield f"{run.name}: {came_to(run)}"
                now = ", ".join(f"{each.name} {each.progress(output):.0%}" for each in going.values())
                yield f"{count - len(waiting) - len(going)} of {count}{'; ' * bool(now)}{now}{left}"
                said = time.monotonic()
        if stop.signal:
            yield "stopping: the runs save where they are"
    finally:
        end(list(going))


def came_to(run: Run) -> str:
    """What became of a run."""
    if run.status == DONE:
        return f"{run.metric} {float(run.value):.2f} %"
    return f"{run.status}, {run.said}"


def left_of(passed: float, done: float, left: float) -> str:
    """The time that runs will take, from what has been done of them."""
    return f"; about {duration(passed / done * left)} left" if done > 0 and left > 0 else ""


def start(grid: Grid, run: Run, data: str, output: Path, threads: int) -> subprocess.Popen[bytes]:
    """Starts or resumes a run in a process of its own."""
    folder = output / run.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "acmix", "train", grid.config, "--output", str(folder)]
    # it saves and ends where this process is killed
    given = {**os.environ, **environment(threads), LAUNCHER_PROCESS: str(os.getpid())}
    # of its own group, so that a Ctrl-C asks it once, through us
    with open(printed(folder), "ab") as file:
        return subprocess.Popen(
            [*command, *grid.overrides(run.arm, run.seed, data)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=given,
            start_new_session=True,
        )


def wait_until_free(folder: Path, stop: StopRequest) -> None:
    """Waits for a run whose grid was killed, while it saves; no longer where a signal comes."""
    until = time.monotonic() + GRACE
    while folder.is_dir() and time.monotonic() < until and not stop.signal:
        try:
            with held(folder):
                return
        except UsageError:
            time.sleep(LOOK)


def printed(folder: Path) -> Path:
    """The file of what a run prints."""
    return folder.with_name(f"{folder.name}.printed")


def close(run: Run, status: int, output: Path) -> None:
    """Notes what became of a run."""
    run.look(output)
    if run.status != DONE:
        run.status, run.said = FAILED, f"status {status}: {last_line(printed(output / run.name))}"


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks runs to save and stop; kills those that do not."""
    for each in processes:
        each.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for each in processes:
        try:
            each.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()


def in_background(grid: Grid, data: str, output: Path, jobs: int | None, arguments: Sequence[str]) -> Iterator[str]:
    """Starts the same command as a process that outlives this one, and says how to follow and stop it.

    Args:
        grid, data, output, jobs: as of `ablation`.
        arguments: of `acmix paper ablation`, without --background; what it prints goes to `ablation.log` in `output`.

    Raises:
        UsageError: as `ablation`; also what the process says that ends at once.
    """
    checked(grid, data, output, jobs)
    make_place(output / LOG)
    command = [sys.executable, "-m", "acmix", "paper", "ablation", *arguments]
    with open(output / LOG, "ab") as file:
        before = file.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    until = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < until and BEGUN.encode() not in new_in(output / LOG, before):
        time.sleep(LOOK)
    if process.poll():
        raise UsageError(last_line(output / LOG).removeprefix("acmix: error: "))
    yield f"process {process.pid} trains in the background"
    yield f"follow it with: tail -f {output / LOG}"
    yield f"stop it with: kill {process.pid}; the same command goes on"


def new_in(file: Path, before: int) -> bytes:
    """What was added to a file."""
    with open(file, "rb") as lines:
        lines.seek(before)
        return lines.read()
