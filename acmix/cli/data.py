"""`acmix data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acmix.cli.app import app, console
from acmix.train.terminal import say

if TYPE_CHECKING:
    from acmix.config import Data

data_commands = typer.Typer(
    rich_markup_mode=None, help="Fetch small data sets; write images into shards; look data over."
)
app.add_typer(data_commands, name="data")

Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="auto or hfds/NAME, as data.format.")]
TrainSplit = Annotated[str, typer.Option("--train-split", metavar="NAME", help="What the source calls train.")]
ValSplit = Annotated[str, typer.Option("--val-split", metavar="NAME", help="What the source calls val.")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Processes. [default: the cores]", min=0, max=1024)]


def settings(place: str, reader: str, train_split: str, val_split: str) -> Data:
    """Where the images are, checked as in a configuration."""
    from acmix.config import validate

    names = {"train_split": train_split, "val_split": val_split}
    return validate({"data": {"dir": place, "format": reader, **names}}, where="acmix data").data


@data_commands.callback()
def data() -> None:
    """Fetch small data sets; write images into shards; look data over."""


@data_commands.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="fashion-mnist or digits.")],
    destination: Annotated[Path, typer.Argument(metavar="DIR", help="The image folder to make.")],
    train: Annotated[int | None, typer.Option(metavar="N", help="Training pictures, balanced. [default: all]")] = None,
    val: Annotated[int | None, typer.Option(metavar="M", help="Validation pictures, balanced. [default: all]")] = None,
) -> None:
    """Write a small public data set as an image folder, which `acmix train --data DIR` reads.

    A part is fixed: the same pictures each time, and a smaller part lies in a larger one.
    """
    from acmix.data.fetch import fetch

    for line in fetch(name, destination, train=train, val=val):
        say(console, line)


@data_commands.command("shard")
def data_shard(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Images as for `acmix train --data`.")],
    destination: Annotated[Path, typer.Argument(metavar="DESTINATION", help="A new or empty folder.")],
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Images per shard. [default: 1000]", min=1, max=10**7)
    ] = None,
    size: Annotated[float | None, typer.Option(metavar="MB", help="Or most MB per shard.", min=0.001, max=1e6)] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the shuffle.", min=0)] = 0,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="train|val", help="Only this one; repeat it for both.")
    ] = None,
    reader: Format = "auto",
    train_split: TrainSplit = "train",
    val_split: ValSplit = "val",
    workers: Workers = None,
) -> None:
    """Write a data set into tar shards, which `acmix train --data DESTINATION` reads.

    The images' bytes stay as they are. A killed call goes on where it was: give the same command again.
    """
    from acmix.tools.shard import shard as run

    where = settings(source, reader, train_split, val_split)
    for line in run(
        where, destination, splits=split or (), samples=samples, size=size, seed=seed, workers=workers
    ):  # fmt: skip
        say(console, line)


@data_commands.command("check")
def data_check(
    place: Annotated[str, typer.Argument(metavar="DIR", help="Images as for `acmix train --data`, or shards.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="train|val", help="Only this one; repeat it for both.")
    ] = None,
    reader: Format = "auto",
    train_split: TrainSplit = "train",
    val_split: ValSplit = "val",
    workers: Workers = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all names to a file.")] = None,
) -> None:
    """Look every image of a data set over: unreadable ones, copies, odd sizes, balance of classes.

    Exit status 1 means that an image is unreadable or a shard is broken.
    """
    from acmix.names import to_json
    from acmix.tools.check import check, copies
    from acmix.tools.check_report import as_json, is_sound, lines
    from acmix.train.files import make_place, write_atomically

    make_place(json)
    where = settings(place, reader, train_split, val_split)
    splits = check(where, split or (), workers)
    found = copies(splits)
    for line in lines(splits, found):
        say(console, line)
    if json is not None:
        write_atomically(json, to_json(as_json(where.shown_dir, splits, found), indent=1).encode())
        say(console, f"written: {json}")
    raise typer.Exit(0 if is_sound(splits) else 1)
