"""What every command shares: the application, where it prints, and the arguments that several commands take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from acmix.errors import UsageError
from acmix.names import shown
from acmix.train.terminal import new_console

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train and use vision models that combine self-attention and convolution (ACmix).",
    epilog="`acmix COMMAND --help` lists a command's options. Start with: acmix train acmix_swin_digits --data DIR",
)
console = new_console()

CHECKPOINT = "A run folder, one of its checkpoints, or a file that `acmix convert` wrote."


Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT)]
DataOption = Annotated[str, typer.Option("--data", metavar="DIR", help="Folder of the data, as for `acmix train`.")]

DEVICE = "auto, cpu, cuda, cuda:1 or mps; auto takes the GPU if there is one."
DeviceOption = Annotated[str, typer.Option("--device", metavar="DEVICE", help=DEVICE)]


def check_there(path: str | Path) -> None:
    """Refuses a checkpoint that is not there, before torch is loaded."""
    if not os.path.lexists(os.path.expanduser(path)):
        raise UsageError(f"there is no checkpoint {path}; check the path")


def check_there_if_file(source: str) -> None:
    """The same for what may also be the name of a published model."""
    if Path(source).suffix in (".pt", ".pth", ".pt2", ".onnx"):
        check_there(source)


def wide() -> Console:
    """A console wide enough for a table of models, also where the terminal's width is unknown."""
    return new_console(width=max(console.width, 120))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table whose first column is a name."""
    table = Table(box=None)
    table.add_column(head[0], no_wrap=True)
    for column in head[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    wide().print(table)


def is_first_process() -> bool:
    """Whether this process is the one that prints, alone or under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def print_version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        from acmix import __version__

        typer.echo(f"acmix {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and use vision models that combine self-attention and convolution (ACmix)."""
