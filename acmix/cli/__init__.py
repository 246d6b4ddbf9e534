"""The command line: parse, call, print. No logic. A file holds a group of commands."""

from __future__ import annotations

import sys
from typing import Any

from acmix.errors import UsageError
from acmix.tools.guard import guarded


def parse_and_call() -> None:
    """Runs the command that was typed; what cannot be parsed is a usage error like any other."""
    # here, so that Ctrl-C ends the command quietly from the start
    import typer

    from acmix.cli.commands import app

    # what the parser raises; typer has its own copy of it, or click's
    command_line_error: Any = typer.BadParameter.__base__
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="acmix", standalone_mode=False))
    except command_line_error as error:
        raise UsageError(f"{error.format_message().rstrip('.')}; see --help") from None


def main() -> None:
    """Entry point of `acmix` and `python -m acmix`."""
    guarded(parse_and_call)
