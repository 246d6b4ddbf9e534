"""`acmix config`: what may be set, and what a configuration sets."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from acmix.cli.app import app
from acmix.cli.complete import words_of_config
from acmix.errors import UsageError


@app.command()
def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY | show CONFIG KEY=VALUE", help="Nothing: all settings.", autocompletion=words_of_config
        ),
    ] = None,
) -> None:
    """List the settings, explain one, or show those of a configuration.

    `acmix config` lists every setting with its default, `acmix config optimizer.lr` explains one and `acmix config
    optimizer` a section. `acmix config show CONFIG` prints what a configuration, a run folder or a checkpoint sets, as
    YAML.
    """
    if words and words[0] == "show":
        if len(words) == 1:
            from acmix.config.reading import shipped, shown_of

            names = ", ".join(shown_of(shipped(), "."))
            raise UsageError(f"acmix config show: CONFIG is missing; give a YAML file, a run folder or a name: {names}")
        from acmix.tools.settings import resolved

        typer.echo(resolved(words[1], words[2:]), nl=False)
        return
    from acmix.config.reference import describe, overview

    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
    lines = [line for word in words for line in [*describe(word), ""]][:-1] if words else overview(width)
    typer.echo("\n".join(lines))
