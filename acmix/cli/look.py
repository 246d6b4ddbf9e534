"""Commands that show what training made: rates, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from acmix.cli.app import app, console, wide
from acmix.names import shown, to_json
from acmix.train.terminal import say


@app.command()
def rates(
    place: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|RUN", help="A checkpoint of a run, or the output folder of `acmix train`."),
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
    head, rows = found.table(console.encoding)
    table = Table(box=None)
    table.add_column(head[0], no_wrap=True)
    for column in head[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    wide().print(table)
    say(console, found.finding)
    say(console, drawn)
