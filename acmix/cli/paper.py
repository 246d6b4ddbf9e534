"""`acmix paper`: the paper's claims and figures, and ours beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from acmix.cli import complete
from acmix.cli.app import app, check_there, console, print_table, wide
from acmix.errors import UsageError
from acmix.train.terminal import say

papers = typer.Typer(rich_markup_mode=None, help="Test the paper's claims: counts, proofs, ablations, rates, speed.")
app.add_typer(papers, name="paper")


def check_files(csv: Path | None, columns: Sequence[str], picture: Path | None) -> None:
    """Refuses files that cannot be written, or that hold something else, before any work."""
    from acmix.benchmark.record import check_table
    from acmix.train.plots import check_picture

    check_table(csv, columns)
    check_picture(picture)
    if csv is not None and picture is not None and os.path.realpath(csv) == os.path.realpath(picture):
        raise UsageError(f"{csv} is to be a table and a picture; give each a file of its own")


@papers.callback()
def paper() -> None:
    """Test the paper's claims: counts, proofs, ablations, rates, speed."""


@papers.command("params")
def paper_params(
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures to a file.")] = None,
) -> None:
    """Compare parameters and multiply-adds with the paper's."""
    from acmix.benchmark.record import check_table, write_table
    from acmix.tools.paper import COLUMNS, params

    check_table(csv, COLUMNS)
    with console.status("counting") as status:
        rows = params(lambda name: status.update(f"counting {name}"))
    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for column in ("form", "parameters", "published", "%", "gmacs", "published", "%"):
        table.add_column(column, justify="right")
    for row in rows:
        millions = f"{int(row.parameters) / 1e6:.2f} M"
        table.add_row(
            row.model, row.form, millions, row.published_parameters, row.parameters_percent,
            row.gmacs, row.published_gmacs, row.gmacs_percent,
        )  # fmt: skip
    wide().print(table)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        names = [row.model.removeprefix("acmix_") for row in rows if row.note == note]
        say(console, f"{', '.join(names)}: {note}")
    if csv is not None:
        write_table(csv, COLUMNS, [asdict(row) for row in rows])
        say(console, f"written: {csv}")


@papers.command("decompose")
def paper_decompose(
    channels: Annotated[int, typer.Option(metavar="C", help="Channels in and out.")] = 64,
    side: Annotated[int, typer.Option(metavar="H", help="Side of the map in pixels.")] = 14,
    conv_size: Annotated[int, typer.Option(metavar="K", help="Side of the convolution; odd.")] = 3,
    attention_size: Annotated[int, typer.Option(metavar="A", help="Side of the attention's neighbourhood; odd.")] = 7,
    heads: Annotated[int, typer.Option(metavar="N", help="Heads.")] = 4,
    stride: Annotated[int, typer.Option(metavar="S", help="Of the convolution that is taken apart.")] = 1,
    dilation: Annotated[int, typer.Option(metavar="D", help="Of the same.")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="FILE.png", help="Also draw it.")] = None,
) -> None:
    """Take a convolution and self-attention apart into the two stages that ACmix shares, and count both.

    Exit status 1 means that the parts do not add up to the whole.
    """
    from acmix.paper.decompose import COLUMNS, Sizes, draw, report, take_apart, write

    sizes = Sizes(channels, side, conv_size, attention_size, heads, stride, dilation)
    check_files(csv, COLUMNS, picture)
    taken = take_apart(sizes)
    for line in report(taken):
        say(console, line)
    if csv is not None:
        write(taken, csv)
        say(console, f"written: {csv}")
    if picture is not None:
        say(console, f"drawn: {draw(taken.sizes, picture)}")
    raise typer.Exit(0 if taken.holds else 1)


@papers.command("ablation")
def paper_ablation(
    source: Annotated[
        str,
        typer.Argument(
            metavar="GRID",
            help="A grid's YAML file, or a shipped name; --list names those.",
            autocompletion=complete.grids,
        ),
    ] = "",
    data: Annotated[str, typer.Option("--data", metavar="DIR", help="Images, as for `acmix train`.")] = "",
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the runs. [default: runs/GRID]")] = None,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Runs at a time. [default: the cores]")] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Train in a process that outlives this one.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Train nothing; tell what the runs have come to.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also add every run to a table.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.png", help="Where to draw. [default: DIR/ablation.png]")
    ] = None,
    lists: Annotated[bool, typer.Option("--list", help="List the shipped grids.")] = False,
) -> None:
    """Train a grid of arms and seeds, and compare the arms seed by seed.

    The same command goes on with what is missing. Every run that was started is in DIR/runs.csv.
    """
    from acmix.paper.grid import read_grid, shipped
    from acmix.paper.runs import COLUMNS, PICTURE, check_folder, read_rows

    if lists or not source:
        table = Table(box=None)
        table.add_column("grid", no_wrap=True)
        for column in ("runs", "data", "question"):
            table.add_column(column)
        for name, path in shipped().items():
            grid = read_grid(path)
            table.add_row(name, str(len(grid.runs())), grid.data, grid.question)
        wide().print(table)
        return
    grid = read_grid(source)
    place = output or Path("runs") / grid.name
    drawn = picture or (None if status else place / PICTURE)
    if not status:
        check_folder(grid, place)
    # in a folder that is still to be made there is no other file
    check_files(csv, COLUMNS, drawn if picture or place.is_dir() else None)
    if csv is not None:
        read_rows(csv)
    if not status:
        from acmix.paper.ablation import ablation, in_background

        if not data:
            raise UsageError(
                f"--data is missing: the images that the runs train on ({grid.data or 'see `acmix train`'})"
            )
        if background:
            more = [*(["--jobs", str(jobs)] if jobs else []), *(["--csv", str(csv)] if csv else [])]
            more += ["--picture", str(picture)] if picture else []
            arguments = [source, "--data", data, "--output", str(place), *more]
            for line in in_background(grid, data, place, jobs, arguments):
                say(console, line)
            return
        for line in ablation(grid, data, place, jobs=jobs):
            say(console, line)
    from acmix.paper.arms import HEAD, compared, draw, verdict
    from acmix.paper.arms import table as rows_of
    from acmix.paper.runs import runs_there, to_do, told, write_runs

    runs = runs_there(grid, place)
    say(console, told(runs, place))
    arms = compared(grid, runs)
    print_table(HEAD, rows_of(arms))
    for arm in arms:
        say(console, verdict(arm, grid.baseline))
    if csv is not None:
        write_runs(runs, csv)
        say(console, f"written: {csv}")
    if drawn is not None:
        say(console, f"drawn: {draw(grid, arms, drawn)}")
    raise typer.Exit(0 if status or not to_do(runs) else 1)


@papers.command("paths")
def paper_paths(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|CHECKPOINT|DIR...", help="Runs of one network, or the folder of an ablation."),
    ],
    arm: Annotated[str, typer.Option("--arm", metavar="ARM", help="Of an ablation. [default: its baseline]")] = "",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write every rate.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="FILE.png", help="Also draw them.")] = None,
) -> None:
    """Compare |α| and |β| by block over runs of several seeds: does convolution dominate early, attention late?"""
    from acmix.paper.paths import COLUMNS, HEAD, draw, read, runs_in, table, verdict, write

    for place in places:
        check_there(place)
    check_files(csv, COLUMNS, picture)
    over = read(runs_in(places, arm))
    print_table(HEAD, table(over))
    for line in verdict(over):
        say(console, line)
    if csv is not None:
        write(over, csv)
        say(console, f"written: {csv}")
    if picture is not None:
        say(console, f"drawn: {draw(over, picture)}")


@papers.command("speed")
def paper_speed(
    batch_size: Annotated[int, typer.Option(metavar="B", help="Images of the operator; networks get a quarter.")] = 8,
    img_size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the images of networks.")] = 224,
    seconds: Annotated[float, typer.Option(metavar="S", help="Of a pair of networks; operators take a tenth.")] = 10.0,
    processes: Annotated[int, typer.Option("--gpus", metavar="N", help="Also the recipe's table, on 1 and N.")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures.")] = None,
) -> None:
    """Measure in pairs: ways to shift and sum, and ACmix beside plain networks and its released form.

    Exit status 1 means that a result was wrong; such a pair has no time.
    """
    from acmix.benchmark.command import models as recipe
    from acmix.benchmark.record import COLUMNS, check_table
    from acmix.paper.limits import check, few_of
    from acmix.paper.speed import HEAD, SWIN, measure, table, verdict, write

    check(batch_size, img_size, seconds, processes)
    check_table(csv, COLUMNS)
    measured = []
    for part, each in measure(
        batch_size=batch_size, img_size=img_size, seconds=seconds, say=lambda line: say(console, line)
    ):
        measured.append((part, each))
        if part == "shifts":
            say(console, " · ".join(filter(None, table([each])[0])))
    print_table(HEAD, table([each for _, each in measured]))
    for line in verdict([each for part, each in measured if part == "shifts"]):
        say(console, line)
    if csv is not None:
        write(measured, csv)
        say(console, f"written: {csv}")
    right = all(each.speed is not None for _, each in measured)
    if processes > 1:
        right &= recipe("train", [SWIN], processes=processes, batch_size=few_of(batch_size), img_size=img_size)
    raise typer.Exit(0 if right else 1)


@papers.command("figure")
def paper_figure(
    picture: Annotated[Path, typer.Argument(metavar="FILE.png", help="What to draw.")],
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="RUN", help="Our own run on ImageNet, finished; may be given several times."),
    ] = None,
    ablations: Annotated[
        Path | None,
        typer.Option("--ablations", metavar="CSV", help="A table that `paper ablation --csv` wrote, of shipped grids."),
    ] = None,
) -> None:
    """Draw accuracy against multiply-adds: the paper's figures, ours on ImageNet, and ours of ablations."""
    from acmix.paper.figure import draw, points
    from acmix.train.plots import check_picture

    check_picture(picture)
    for line in points(runs or [], ablations):
        say(console, line)
    say(console, f"drawn: {draw(runs or [], ablations, picture)}")
