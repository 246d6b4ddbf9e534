"""1,000 mutated configurations, 1,000 images and 500 checkpoints through every command that takes them.

python benchmarks/hostile.py [--configurations N] [--images N] [--checkpoints N] [--seed N] [--begin KIND=N ...]

Each command runs in a process forked from a warm one, with a bound on time and memory; connections and programs are
refused and counted. A sample also runs as it is typed, in a process of its own. What a command did is one of

    refused      one line that says what is wrong (for several images: one each), and an exit status
    accepted     it ended well, or was stopped after two steps of training
    traceback    anything else: a traceback, an end by a signal or without a word, a page of lines
    hang         it took more than 10 seconds; a training that had begun by then is ended and counts as accepted

->  benchmarks/results/hostile.csv; every case in FOLDER/cases.jsonl
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from acmix.benchmark.hostile.cases import KINDS, Case, Ground, cases, prepared
from acmix.benchmark.hostile.child import LONGEST, Result, forked, warm_up
from acmix.benchmark.record import write_table
from acmix.errors import UsageError
from acmix.train.device import device_name
from acmix.train.files import write_atomically
from acmix.train.log import duration

OUTCOMES = {"refused": "refused", "accepted": "accepted", "traceback": "tracebacks", "hang": "hangs"}
COLUMNS = ("machine", "kind", "command", "cases", *OUTCOMES.values(), "most_mib", "requests", "executed")
DEFAULTS = {"configurations": 1000, "images": 1000, "checkpoints": 500}
# mutants that also run as a command is typed, and seconds for one: it imports everything
SAMPLE, LONGEST_TYPED = 50, 60


def main(root: Path) -> int:
    """Reads the command line; the exit status: 1 where a case ended otherwise than it should.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, number in DEFAULTS.items():
        parser.add_argument(f"--{kind}", type=int, metavar="N", default=number, help=f"(default: {number})")
    parser.add_argument(
        "--begin", nargs="+", type=kind_and_number, metavar="KIND=N", default=[],
        help="leave out a kind's mutants before number N, which ran elsewhere; other machines' rows stay in the table",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="of the mutants (default: %(default)s)")
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="mutants at a time (default: %(default)s)")
    parser.add_argument("--sample", type=int, metavar="N", default=SAMPLE, help="also typed (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=root / "runs" / "hostile", help="of the files; emptied first")
    parser.add_argument("--resume", action="store_true", help="go on in the folder, behind the mutants that are done")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the table")
    asked = parser.parse_args()
    if sys.platform != "linux":
        raise UsageError("this trial needs Linux, whose processes it forks, bounds and watches")
    warm_up()
    ground = prepared(asked.folder, again=asked.resume)
    counts = {kind: getattr(asked, kind) for kind in KINDS}
    mutants = [
        (kind, number) for kind in KINDS for number in numbers(kind, counts[kind], dict(asked.begin).get(kind, 0))
    ]
    rows = [*told(all_of(ground, mutants, asked.seed, asked.jobs), len(mutants))]
    if asked.sample:
        rows += typed(ground, counts, asked.seed, asked.sample, root)
    for row in rows:
        if row["outcome"] in ("traceback", "hang") or row["requests"] or row["executed"]:
            print(f"{row['outcome']}: {row['command']}: {row['what']}: {row['said'].strip()[-300:]} {row['noted']}")
    table = tabled(rows)
    file = asked.results / "hostile.csv"
    write_table(file, COLUMNS, table, key=COLUMNS[:3])
    print(f"written: {file}")
    return int(any(row[name] for row in table for name in ("tracebacks", "hangs", "requests", "executed")))


def kind_and_number(text: str) -> tuple[str, int]:
    """`images=960` as a pair."""
    kind, _, number = text.partition("=")
    if kind not in KINDS or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected KIND=N, of {', '.join(KINDS)}")
    return kind, int(number)


def numbers(kind: str, many: int, first: int = 0) -> range:
    """The mutants of a kind; images come in groups."""
    from acmix.benchmark.hostile.cases import GROUP

    step = GROUP if kind == "images" else 1
    return range(first // step * step, many, step)


def told(results: Iterator[list[dict[str, Any]]], total: int) -> Iterator[dict[str, Any]]:
    """The rows, with a line now and then."""
    began, said = time.monotonic(), 0.0
    for done, rows in enumerate(results, 1):
        yield from rows
        if (now := time.monotonic()) > said + 20 or done == total:
            said = now
            print(f"{done}/{total} · about {duration((now - began) / done * (total - done))} left", flush=True)


def all_of(ground: Ground, mutants: list[tuple[str, int]], seed: int, jobs: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of every mutant, a list each, from several processes that share them."""
    notes, told = os.pipe()

    def work(job: int) -> None:
        for kind, number in mutants[job::jobs]:
            file = ground.folder / "rows" / f"{kind}_{number}.json"
            if not file.exists():
                rows = rows_of(ground, kind, number, seed)
                file.parent.mkdir(exist_ok=True)
                write_atomically(file, json.dumps(rows).encode())
            os.write(told, f"{file}\n".encode())

    # forked, so that what is imported is there; a traceback is printed by the process that meets it
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(job,)) for job in range(jobs)]
    for worker in workers:
        worker.start()
    os.close(told)
    with open(notes, encoding="utf-8") as lines, (ground.folder / "cases.jsonl").open("w", encoding="utf-8") as log:
        for line in lines:
            rows = json.loads(Path(line.strip()).read_text("utf-8"))
            for row in rows:
                print(json.dumps(row), file=log, flush=True)
            yield rows
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise UsageError("a process of this trial failed; its traceback stands above")


def rows_of(ground: Ground, kind: str, number: int, seed: int) -> list[dict[str, Any]]:
    """Runs every command on one mutant."""
    folder = ground.folder / "mutants" / f"{kind}_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for place, each in enumerate(cases(kind, number, ground, folder, seed)):
        said = folder / f"said_{place}"
        result = forked(each.call, said, canary=ground.canary)
        if result.is_late and has_begun(each, folder):
            # what it has to compute is its own matter
            result = replace(result, is_late=False, status=0)
        rows.append(row_of(each, result, number))
    if not any(is_fault(row) for row in rows):
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def has_begun(case: Case, folder: Path) -> bool:
    """Whether a training had taken its first step when its time was over."""
    logs = [folder / name / "log.jsonl" for name in ("run", "new")]
    starts = sum(each.read_bytes().count(b'"event": "start"') for each in logs if each.is_file())
    # a run folder has that of the sound run
    return case.command.startswith("train") and starts > (case.kind == "checkpoints")


def is_fault(row: dict[str, Any]) -> bool:
    """Whether a case is kept to be looked at."""
    return row["outcome"] in ("traceback", "hang") or bool(row["requests"] or row["executed"])


def row_of(case: Case, result: Result, number: int) -> dict[str, Any]:
    """A case and what became of it."""
    return {
        **{"kind": case.kind, "command": case.command, "number": number, "what": case.what, "many": case.many},
        **{"outcome": result.outcome, "status": result.status, "seconds": round(result.seconds, 2)},
        **{"mib": round(result.mib), "requests": result.requests, "executed": result.executed},
        **{"noted": result.noted, "said": result.said[-4000:]},
    }


def typed(ground: Ground, counts: dict[str, int], seed: int, many: int, root: Path) -> list[dict[str, Any]]:
    """The first mutants again, each by one of its commands as it is typed."""
    rows = []
    kinds = [kind for kind in KINDS if counts[kind]]
    for place in range(many):
        kind = kinds[place % len(kinds)]
        number = numbers(kind, counts[kind])[place // len(kinds) % len(numbers(kind, counts[kind]))]
        folder = ground.folder / "typed" / f"{kind}_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        made = [each for each in cases(kind, number, ground, folder, seed) if each.arguments is not None]
        chosen = made[place % len(made)]
        rows.append(row_of(chosen, in_own_process(chosen, folder, root), number) | {"command": "as typed"})
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def in_own_process(case: Case, folder: Path, root: Path) -> Result:
    """`python -m acmix …`, with steps of training bounded by the clock alone."""
    assert case.arguments is not None
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "acmix", *case.arguments]
    with open(folder / "typed", "wb") as said:
        process = subprocess.Popen(
            arguments, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        is_late = False
        try:
            process.wait(LONGEST_TYPED)
        except subprocess.TimeoutExpired:
            is_late = not (folder / "run" / "log.jsonl").exists()
            process.terminate()
            try:
                process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                is_late = True
                process.kill()
                process.wait()
    seconds, text = time.monotonic() - began, (folder / "typed").read_bytes().decode(errors="replace")
    return Result(process.returncode, seconds, 0, text, [], is_late)


def tabled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind and command."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["command"]), []).append(row)
    return [
        {
            **{"machine": device_name(torch.device("cpu")), "kind": kind, "command": command},
            "cases": sum(row["many"] for row in group),
            **{name: sum(row["many"] for row in group if row["outcome"] == each) for each, name in OUTCOMES.items()},
            "most_mib": max(row["mib"] for row in group) or "",
            **{name: sum(row[name] for row in group) for name in ("requests", "executed")},
        }
        for (kind, command), group in groups.items()
    ]
