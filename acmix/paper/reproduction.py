"""Tests the paper's claims: runs what is missing, and writes docs/reproduction.md's tables from what was measured.

python benchmarks/paper.py [--only PART ...] [--data DIR] [--runs DIR]     measures, with progress and time left
python benchmarks/paper.py --tables                                        measures nothing, writes the tables

Parts: decompose, ablations, paths, speed, figure. `ablations` fetches Fashion-MNIST and the digits into DIR where they
are missing, and goes on with the runs that lie in --runs. Writes into benchmarks/results/: paper_decompose.csv,
ablations.csv, paper_rates_*.csv, paper_speed.csv, and the drawings beside them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from acmix.benchmark.published.cells import ratio_of, table
from acmix.benchmark.published.measured import measured_on
from acmix.benchmark.record import WRONG
from acmix.data.fetch import fetch
from acmix.errors import UsageError
from acmix.paper import ablation, arms, decompose, figure, paths, speed
from acmix.paper.claims import MISSING, OF_PATHS, Found, read, verdicts
from acmix.paper.grid import read_grid
from acmix.paper.runs import DONE, FAILED, runs_of, to_do, write_runs

PAGE = "docs/reproduction.md"
PARTS = ("decompose", "ablations", "paths", "speed", "figure")
# grids that two cores can train, in the order in which they are trained, and the pictures that each takes
GRIDS = {
    **{f"fashion_{name}": "fashion-mnist" for name in ("paths_swin", "rates", "kernels", "placement", "paths_resnet")},
    "digits_paths": "digits",
}
OF_DATA = {"fashion-mnist": {"train": 4000, "val": 5000}, "digits": {}}
# images of ImageNet-1k's training set, and epochs of the recipe
IMAGES, EPOCHS = 1_281_167, 300
# a card that somebody else measured: Swin-S with ACmix on a BI-V100, 128 images a card
PUBLISHED_IMAGES_PER_SECOND = 63.59


def summary(found: Found) -> list[str]:
    """The six verdicts."""
    rows = [
        (f"{number}. {each.claim}", each.found, f"**{each.verdict}**", f"`{each.command}`")
        for number, each in enumerate(verdicts(found), 1)
    ]
    head = "| claim | measured | verdict | command |\n|---|---|---|---|"
    return [*head.split("\n"), *(f"| {' | '.join(map(in_cell, row))} |" for row in rows)]


def in_cell(text: str) -> str:
    """Text that a Markdown table takes for one cell."""
    return text.replace("|", "\\|")


def of_grid(name: str, found: Found) -> list[str]:
    """A grid's arms, and a sentence on each."""
    grid = read_grid(name)
    runs = found.of(grid)
    if not runs:
        return [MISSING[:1].upper() + MISSING[1:] + "."]
    compared = arms.compared(grid, runs)
    told = [arms.verdict(arm, grid.baseline) for arm in compared if arm.difference is not None]
    done, failed = (sum(run.status == status for run in runs) for status in (DONE, FAILED))
    seconds = [float(run.seconds) for run in runs if run.status == DONE]
    machine = dict.fromkeys(f" {run.device}, commit `{run.commit[:7]}`." for run in runs if run.status == DONE)
    minutes = f", {sum(seconds) / 60:.0f} minutes of training" if seconds else ""
    return [
        *table(arms.HEAD, arms.table(compared)),
        "",
        *(f"- {line}" for line in told),
        "",
        f"{done} of {len(grid.runs())} runs ended, {failed} failed{minutes}.{''.join(machine)}",
    ]


def of_rates_by_block(form: str, found: Found) -> list[str]:
    """The rates by block over the seeds."""
    over = found.over.get(form)
    if over is None:
        return ["Not measured."]
    rows = ([in_cell(each) for each in row] for row in paths.table(over))
    return [*table(map(in_cell, paths.HEAD), rows), "", *(f"- {line}" for line in paths.verdict(over))]


def of_shifts(found: Found) -> list[str]:
    """The ways to shift and sum, in pairs."""
    rows = [row for row in found.speed if row["line"] == "paper_shifts"]
    lines = [(row["shape"], row["phase"], row["peer"], row["candidate"], ratio_of(row, spread=True)) for row in rows]
    return [*table(("shape", "", "A", "B", "A ÷ B"), lines), "", measured_on(rows)] if rows else ["Not measured."]


def of_networks(found: Found) -> list[str]:
    """ACmix beside plain networks and its released form."""
    rows = [row for row in found.speed if row["line"] == "paper_networks"]
    lines = [
        (row["subject"], row["phase"], row["images"], row["peer"], ratio_of(row, spread=True), row["images_per_second"])
        for row in rows
    ]
    names = ("model", "phase", "images", "peer", "peer ÷ ACmix", "images/s")
    return [*table(names, lines), "", measured_on(rows)] if rows else ["Not measured."]


def of_hours(found: Found) -> list[str]:
    """What settles the open claims on ImageNet: runs, and hours of a card for each, from measured speed."""
    grid = read_grid("imagenet_claims")
    rate = next(
        (
            float(row["images_per_second"])
            for row in found.speed
            if (row["line"], row["phase"], row["subject"]) == ("paper_networks", "train", speed.SWIN)
            and row["speed_up"] != WRONG
        ),
        None,
    )  # fmt: skip
    work, count = IMAGES * EPOCHS, len(grid.runs())
    lines = []
    for what, images in (
        ("BI-V100, published by a third party ([scaling.md](scaling.md)), ACmix-Swin-S", PUBLISHED_IMAGES_PER_SECOND),
        ("this machine, measured, ACmix-Swin-T", rate),
    ):
        hours = [MISSING] * 3
        if images is not None:
            one = work / images / 3600
            hours = [f"{images:g}", f"{one:,.0f}", f"{one * count:,.0f}"]
        lines.append((what, *hours))
    return table(("device", "images/s", f"hours a run ({EPOCHS} epochs)", f"for {count} runs"), lines)


TABLES: dict[str, Callable[[Found], list[str]]] = {
    "summary": summary,
    **{name: lambda found, name=name: of_grid(name, found) for name in GRIDS},
    **{f"rates_{form}": lambda found, form=form: of_rates_by_block(form, found) for form in OF_PATHS},
    "shifts": of_shifts,
    "networks": of_networks,
    "hours": of_hours,
}


def filled(text: str, found: Found) -> str:
    """The page with its tables made anew.

    Raises:
        UsageError: a table that does not exist.
    """

    def made(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise UsageError(f"no table {match[1]!r}; there are {', '.join(TABLES)}")
        body = "\n".join(TABLES[match[1]](found))
        return f"<!-- paper:{match[1]} -->\n{body}\n<!-- /paper:{match[1]} -->"

    return re.sub(r"<!-- paper:(\w+) -->\n.*?<!-- /paper:\1 -->", made, text, flags=re.DOTALL)


def train_grids(data: Path, runs: Path, results: Path) -> bool:
    """Trains what is missing of all grids; whether every run ended."""
    whole = True
    for name, pictures in GRIDS.items():
        for line in fetch(pictures, data / pictures, **OF_DATA[pictures]):
            print(line, flush=True)
        grid = read_grid(name)
        for line in ablation.ablation(grid, str(data / pictures), runs / name):
            print(line, flush=True)
        done = runs_of(grid, runs / name)
        write_runs(done, results / "ablations.csv")
        whole &= not to_do(done)
        arms.draw(grid, arms.compared(grid, done), results / f"ablation_{name}.png")
    return whole


def main(root: Path) -> int:
    """Measures what the command line asks for and writes the tables; the exit status: 1 where something is wrong.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, default=root / "data" / "paper", help="folder of the pictures")
    parser.add_argument("--runs", type=Path, default=root / "runs", help="folder of the ablations' runs")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the files")
    parser.add_argument("--tables", action="store_true", help="measure nothing; write the tables")
    told = parser.parse_args()
    results, right = told.results, True
    chosen = () if told.tables else told.only
    if "decompose" in chosen:
        taken = decompose.take_apart(decompose.Sizes())
        print("\n".join(decompose.report(taken)))
        decompose.write(taken, results / "paper_decompose.csv")
        decompose.draw(taken.sizes, results / "paper_decompose.png")
        right &= taken.holds
    if "ablations" in chosen:
        right &= train_grids(told.data, told.runs, results)
    if "paths" in chosen:
        for form, grid in OF_PATHS.items():
            over = paths.read(paths.runs_in([told.runs / grid]))
            print("\n".join(paths.verdict(over)))
            paths.write(over, results / f"paper_rates_{form}.csv")
            paths.draw(over, results / f"paper_rates_{form}.png")
    if "speed" in chosen:
        measured = []
        for part, each in speed.measure():
            measured.append((part, each))
            print(" · ".join(filter(None, speed.table([each])[0])), flush=True)
        speed.write(measured, results / "paper_speed.csv")
        right &= all(each.speed is not None for _, each in measured)
    if "figure" in chosen:
        table_of_runs = results / "ablations.csv"
        figure.draw([], table_of_runs if table_of_runs.is_file() else None, results / "paper_figure.png")
    page, found = root / PAGE, read(results)
    page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    print("\n".join([*summary(found), f"written: {page}"]))
    return 0 if right else 1
