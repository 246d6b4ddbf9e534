"""Faults that a run is put through, one kind after the other, and what became of it.

python benchmarks/faults.py [--only NAMES] [--cases N]

    flips       200 checkpoints with a flipped bit or cut short, through every command that reads one
    torn        50 damaged newest checkpoints with a whole one from before
    rank        one of two ranks killed in the middle of an epoch, 20 times
    launcher    the launcher killed, 10 times alone and 10 times with its group
    disk        a file system of 64 MiB that fills up at a checkpoint; another user's folder; a folder held elsewhere
    share       the share of a step that a checkpoint every 100 steps costs, written beside the training and at once

What was done is kept in the folder of the runs: the same command, killed, goes on. Run `share` on an idle machine.

->  benchmarks/results/faults.csv
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acmix.benchmark.faults.disk import disk
from acmix.benchmark.faults.flips import flips
from acmix.benchmark.faults.forked import load_all
from acmix.benchmark.faults.killed import launcher, ranks
from acmix.benchmark.faults.record import Kept, write_rows
from acmix.benchmark.faults.share import share
from acmix.benchmark.faults.torn import torn
from acmix.benchmark.small_runs import Setting, run_whole
from acmix.errors import UsageError
from acmix.train.device import device_name

# by name: what does it, in how many cases, with how many processes a run
FAULTS: dict[str, tuple[Callable[[Setting, Path, Kept, int], list[dict[str, Any]]], int, int]] = {
    "flips": (flips, 200, 1),
    "torn": (torn, 50, 1),
    "rank": (ranks, 20, 2),
    "launcher": (launcher, 20, 2),
    "disk": (disk, 0, 1),
    "share": (share, 20, 0),
}
# settings of the runs beside those of survive.py, by their processes
OVERRIDES = {1: ("data.workers=0",), 2: ("train.restarts=3",)}


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where something was not as it should be.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FAULTS), help="these, by commas (default: %(default)s)")
    parser.add_argument("--cases", type=int, help="at most so many of each (default: as above)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "faults", help="of the runs")
    parser.add_argument("--anew", action="store_true", help="do not go on from what the folder holds")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    if os.name != "posix" or not Path("/proc/self/stat").is_file():
        raise UsageError("this machine has no /proc; run it on Linux")
    names = asked.only.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise UsageError(f"--only {unknown[0]}: no such fault; expected some of {', '.join(FAULTS)}")
    folder = asked.folder.absolute()
    if asked.anew:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    load_all()
    kept, rows = Kept(folder / "results.jsonl"), list[dict[str, Any]]()
    for name in names:
        do, cases, processes = FAULTS[name]
        found = do(setting_of(processes, folder), folder, kept, min(cases, asked.cases or cases))
        for each in found:
            each["line"] = each["line"].replace(str(folder), "DIR")
        write_rows(asked.results / "faults.csv", found, device_name(torch.device("cpu")))
        rows += found
    for each in rows:
        print(f"{each['name']} · {each['what']} · {each['as_wanted']} of {each['cases']} as wanted: {each['outcomes']}")
    print(f"written: {asked.results / 'faults.csv'}")
    return 1 if any(each["as_wanted"] != each["cases"] for each in rows) else 0


def setting_of(processes: int, folder: Path) -> Setting:
    """The run that faults befall, and the undisturbed one; none is needed for 0 processes."""
    place = folder / f"whole_classify_{processes}"
    setting = Setting("classify", processes, folder / "classify.yaml", place, overrides=OVERRIDES.get(processes, ()))
    if processes:
        run_whole(setting, folder)
    return setting
