"""How many threads a run of a grid has: the same from its first step to its last, since they decide about rounding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from acmix.data.worker import cores
from acmix.errors import UsageError
from acmix.paper.runs import Run
from acmix.train.files import write_atomically

THREADS, MOST_THREADS = "threads.txt", 4096


def threads_of(runs: Iterable[Run], output: Path, jobs: int) -> tuple[int, bool]:
    """The threads of each run of a grid, and whether it was begun with them.

    Args:
        runs: all of the grid, as their folders say.
        output: the grid's folder.
        jobs: how many runs are trained at a time where none was begun.

    Raises:
        UsageError: the folder's file of threads is damaged.
    """
    file = output / THREADS
    if file.is_file():
        said = file.read_text(encoding="utf-8", errors="replace").strip()[:20]
        if not re.fullmatch("[1-9][0-9]{0,3}", said) or int(said) > MOST_THREADS:
            raise UsageError(f"{file} is damaged: it holds {said!r}; expected the number of threads that runs have")
        return int(said), True
    # a folder from before that file: a run's log says them, too
    for run in runs:
        if found := re.search(r"\(([1-9][0-9]{0,3}) threads?\b", run.device):
            return int(found[1]), True
    return max(1, cores() // jobs), False


def keep(threads: int, output: Path) -> None:
    """Writes the number of threads beside the runs."""
    file = output / THREADS
    if not file.is_file():
        write_atomically(file, f"{threads}\n".encode())


def environment(threads: int) -> dict[str, str]:
    """What gives a process so many threads, also where the machine has fewer cores."""
    number = str(threads)
    return {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"}


def in_words(threads: int) -> str:
    """A number of threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"
