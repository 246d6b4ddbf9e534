"""Runs that are killed at random moments and started again until they are done, beside undisturbed ones.

python benchmarks/survive.py [--runs N] [--jobs N] [--only KIND,...]

Each run is a real `acmix train` in one process, or in two by the launcher of run.sh: of classification, detection or
segmentation, on small images. SIGKILL goes to the launcher's whole group, or to one process of two, at a moment that is
drawn from the length of an undisturbed run, mostly from the part after its first step. The same command follows, is
killed again or not, and so on until a call ends by itself. The last checkpoint is then compared with the undisturbed
run's, bit by bit. What was done is kept in the folder of the runs: the same command, killed itself, goes on.

->  benchmarks/results/survive.csv
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from acmix.benchmark.kills import FAULT, Kill
from acmix.benchmark.record import counted, write_table
from acmix.benchmark.small_runs import KINDS, Setting, call, same, undisturbed
from acmix.errors import UsageError
from acmix.train.device import device_name
from acmix.train.log import duration

COLUMNS = (
    *("machine", "task", "images", "processes", "runs", "kills", "starting", "training", "evaluating", "writing"),
    *("equal", "different", "failed", "gone_on_from_the_one_before"),
)
MOMENTS = ("starting", "training", "evaluating", "writing")
# of the runs, those that are killed again after the first time, each time
AGAIN = 0.5
# of the kills, those that come after a call's first step
LATE = 0.7


@dataclass
class Survived:
    """What became of a run.

    Args:
        moments: of each kill, one of `MOMENTS`.
        outcome: "equal", "different" or "failed".
        said: of a failed one, the last line.
        from_before: how often it went on from the checkpoint before the newest.
    """

    moments: list[str] = field(default_factory=list)
    outcome: str = ""
    said: str = ""
    from_before: int = 0


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where a run ended otherwise.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many are killed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--only", default=",".join(KINDS), help="of these kinds, by commas (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "survive", help="of the runs")
    parser.add_argument("--anew", action="store_true", help="do not go on from what the folder holds")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    if os.name != "posix":
        raise UsageError("this machine has no SIGKILL; run it on Linux or macOS")
    kinds = asked.only.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--only {unknown[0]}: no such kind; expected some of {', '.join(KINDS)}")
    if asked.anew:
        shutil.rmtree(asked.folder, ignore_errors=True)
    settings = undisturbed(asked.folder, kinds)
    results = kill_all(settings, asked.folder, each=asked.runs // len(settings), jobs=asked.jobs, seed=asked.seed)
    rows = [row_of(setting, results[setting.name]) for setting in settings]
    file = asked.results / "survive.csv"
    write_table(file, COLUMNS, rows, key=("task", "images", "processes"))
    print(f"written: {file}")
    return 1 if any(row["different"] or row["failed"] for row in rows) else 0


def kill_all(
    settings: Sequence[Setting], folder: Path, *, each: int, jobs: int, seed: int
) -> dict[str, list[Survived]]:
    """Kills as many runs of each setting, in turn; what became of them, by the setting's name."""
    results: dict[str, list[Survived]] = {setting.name: [] for setting in settings}
    done, file = set[tuple[str, int]](), folder / "results.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        record = json.loads(line)
        key = record.pop("setting"), record.pop("number")
        # one that ended before anything killed it is run again
        if key[0] in results and key[1] < each and key not in done and record["moments"]:
            results[key[0]].append(Survived(**record))
            done.add(key)
    plan = [(setting, number) for number in range(each) for setting in settings]
    plan = [(setting, number) for setting, number in plan if (setting.name, number) not in done]
    began, here = time.monotonic(), 0
    with ThreadPoolExecutor(jobs) as pool, file.open("a", encoding="utf-8") as kept:
        for (setting, number), result in zip(
            plan, pool.map(lambda one: survive(one[0], one[1], folder, seed), plan), strict=True
        ):
            name, here = setting.name, here + 1
            results[name].append(result)
            kept.write(json.dumps({"setting": name, "number": number, **asdict(result)}) + "\n")
            kept.flush()
            left = (time.monotonic() - began) / here * (len(plan) - here)
            kills = counted(len(result.moments), "kill")
            say = (
                f"{here}/{len(plan)} · {setting.kind} × {setting.processes} · {kills} · {result.outcome} {result.said}"
            )
            print(f"{say.rstrip()} · about {duration(left)} left", flush=True)
    return results


def survive(setting: Setting, number: int, folder: Path, seed: int) -> Survived:
    """Kills one run until a call ends by itself, and compares."""
    draw = random.Random(f"{seed} {setting.name} {number}")
    output, result = folder / f"run_{setting.name}_{number}", Survived()
    shutil.rmtree(output, ignore_errors=True)
    output.with_suffix(".printed").unlink(missing_ok=True)
    while True:
        kill = None
        if not result.moments or draw.random() < AGAIN:
            # starting takes longest, and is only one of the moments
            late = draw.random() < LATE
            after = draw.uniform(0.0, setting.stepping) if late else draw.uniform(0.2, setting.seconds)
            kill = Kill(after, setting.processes > 1 and draw.random() < 0.5, draw, late)
        status, said = call(setting, folder, output, kill)
        if kill and kill.moment:
            result.moments.append(kill.moment)
        if status == FAULT:
            result.outcome, result.said = "failed", f"({said})"
            return result
        if kill and kill.moment:
            continue
        if kill and not result.moments and status == 0:
            # it was through before its moment came
            shutil.rmtree(output, ignore_errors=True)
            output.with_suffix(".printed").unlink(missing_ok=True)
            continue
        if status != 0:
            result.outcome, result.said = "failed", f"(status {status}: {said})"
            return result
        break
    printed = output.with_suffix(".printed").read_text(encoding="utf-8", errors="replace")
    result.from_before = printed.count("going on from last-")
    result.outcome = "equal" if same(setting.whole, output) else "different"
    if result.outcome == "equal":
        shutil.rmtree(output, ignore_errors=True)
    return result


def row_of(setting: Setting, results: Iterable[Survived]) -> dict[str, Any]:
    """A row of the table."""
    results = [*results]
    moments = [moment for each in results for moment in each.moments]
    return {
        "machine": device_name(torch.device("cpu")),
        "task": setting.task,
        "images": KINDS[setting.kind],
        "processes": setting.processes,
        "runs": len(results),
        "kills": len(moments),
        **{moment: moments.count(moment) for moment in MOMENTS},
        **{outcome: sum(each.outcome == outcome for each in results) for outcome in ("equal", "different", "failed")},
        "gone_on_from_the_one_before": sum(each.from_before for each in results),
    }
