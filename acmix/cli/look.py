"""Commands that show what training made: rates, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from acmix.cli.app import app, check_there, console, print_table, wide
from acmix.names import shown, to_json
from acmix.train.terminal import say


@app.command()
def rates(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN",
            help="A checkpoint of a run, or the output folder of `acmix train`.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; draw only with --plot.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Where to draw. [default: RUN/paths.png, or CHECKPOINT.rates.png beside it]"
        ),
    ] = None,
) -> None:
    """Print and draw α and β of every block.

    α multiplies a block's attention, β its convolution. For a run, the change since the first epoch is printed too.
    """
    check_there(place)
    from acmix.tools.rates import rates_of

    found = rates_of(place)
    drawn = found.draw_where(plot, by_default=not as_json)
    if as_json:
        typer.echo(to_json(found.as_json()))
        return
    if found.absent:
        say(console, f"{place}: {found.absent}")
        return
    say(console, found.title)
    print_table(*found.table(console.encoding))
    say(console, found.finding)
    say(console, drawn)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Output folders of `acmix train`, or checkpoints.")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page to write. [default: compare.html]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; write a page only with --output.")] = False,
) -> None:
    """Compare runs: figures, curves, settings that differ.

    Prints two tables and writes one HTML page. Differences are from the first run; those of top-1 with their noise.
    """
    from acmix.tools.compare import compare as run
    from acmix.tools.compare_page import write_page

    found = run(runs)
    page = Path("compare.html") if output is None and not as_json else output
    written = "" if page is None else write_page(found, page)
    if as_json:
        typer.echo(to_json(found.as_json()))
        return
    head, rows = found.figures()
    table = Table(box=None)
    for column in head:
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for row in rows:
        table.add_row(*map(shown, row))
    wide().print(table)
    settings = Table(box=None)
    for column in ("setting that differs", "value", "runs"):
        settings.add_column(column, overflow="fold")
    for row in found.grouped_settings():
        settings.add_row(*map(shown, row))
    if found.settings:
        wide().print(settings)
    else:
        say(console, "every setting is the same")
    for note in [*found.notes, written]:
        say(console, note)
