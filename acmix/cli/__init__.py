"""The command line: parse, call, print. No logic.

A file holds a group of commands, which stand in `acmix --help` in the order of the imports here.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from acmix.cli.app import app
from acmix.errors import UsageError
from acmix.tools.guard import guarded

# each adds its commands, in this order
# isort: off
from acmix.cli import train as _train  # noqa: F401
from acmix.cli import use as _use  # noqa: F401
from acmix.cli import models as _models  # noqa: F401
from acmix.cli import benchmark as _benchmark  # noqa: F401
# isort: on

# what the parser raises; typer has its own copy of it, or click's
CommandLineError: Any = typer.BadParameter.__base__


def parse_and_call() -> None:
    """Runs the command that was typed; what cannot be parsed is a usage error like any other."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="acmix", standalone_mode=False))
    except CommandLineError as error:
        raise UsageError(f"{error.format_message().rstrip('.')}; see --help") from None


def main() -> None:
    """Entry point of `acmix` and `python -m acmix`."""
    guarded(parse_and_call)
