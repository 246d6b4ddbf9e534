"""Commands on the models and their operators: models, paper, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from acmix.cli.app import app, console, wide
from acmix.errors import UsageError
from acmix.train.terminal import say


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern with *.")] = "",
) -> None:
    """List the models with parameters and multiply-adds."""
    from acmix.models import list_models
    from acmix.models.count import cost
    from acmix.tools.paper import in_order

    names = in_order(list_models(pattern if "*" in pattern or not pattern else f"*{pattern}*"))
    if not names:
        raise UsageError(f"no model matches {pattern!r}; `acmix models` lists them all")
    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for column in ("parameters", "gmacs", "plain parameters", "plain gmacs"):
        table.add_column(column, justify="right")
    for name in names:
        ours, plain = cost(name), cost(name, conv_path=False)
        table.add_row(name, f"{ours.parameters:,}", f"{ours.gmacs:.3f}", f"{plain.parameters:,}", f"{plain.gmacs:.3f}")
    wide().print(table)


papers = typer.Typer(rich_markup_mode=None, help="Compare our figures with the paper's.")
app.add_typer(papers, name="paper")


@papers.callback()
def paper() -> None:
    """Compare our figures with the paper's."""


@papers.command("params")
def paper_params(
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures to a file.")] = None,
) -> None:
    """Compare parameters and multiply-adds with the paper's."""
    from acmix.tools.paper import params, write
    from acmix.train.files import make_place

    make_place(csv)
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
        write(rows, csv)
        say(console, f"written: {csv}")


@app.command()
def build(force: Annotated[bool, typer.Option("--force", help="Compile again.")] = False) -> None:
    """Compile the CPU kernels now instead of on first use."""
    from acmix.ops.build import build as run

    built = run(force=force)
    took = f"built in {built.seconds:.1f} s" if built.seconds else "already built; --force compiles again"
    say(console, f"CPU kernels: {built.path} ({took})")
