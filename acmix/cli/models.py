"""Commands on the models and their operators: models, build."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from acmix.cli import complete
from acmix.cli.app import app, console, wide
from acmix.errors import UsageError
from acmix.train.terminal import say


@app.command()
def models(
    pattern: Annotated[
        str,
        typer.Argument(metavar="FILTER", help="Part of a name, or a pattern with *.", autocompletion=complete.models),
    ] = "",
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


@app.command()
def build(force: Annotated[bool, typer.Option("--force", help="Compile again.")] = False) -> None:
    """Compile the CPU kernels now instead of on first use."""
    from acmix.ops.build import build as run

    built = run(force=force)
    took = f"built in {built.seconds:.1f} s" if built.seconds else "already built; --force compiles again"
    say(console, f"CPU kernels: {built.path} ({took})")
