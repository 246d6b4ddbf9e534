"""`acmix hub`: models as folders and repositories of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acmix.cli.app import app, check_there_if_file, console
from acmix.tools.guard import clearing_up
from acmix.train.terminal import say

hub = typer.Typer(rich_markup_mode=None, help="Save a model for the Hugging Face hub, send it there, or fetch it.")
app.add_typer(hub, name="hub")

Source = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A run folder, a checkpoint, or a saved folder.")]
License = Annotated[
    str | None, typer.Option(metavar="ID", help="Of the weights, such as apache-2.0. [default: not stated]")
]
Dataset = Annotated[
    str | None, typer.Option(metavar="NAME", help="What it was trained on, for the card. [default: not named]")
]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="A branch, tag or commit. [default: main]")]
Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the hub.")]


@hub.command()
@clearing_up()
def save(
    source: Source,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    license: License = None,
    dataset: Dataset = None,
) -> None:
    """Write config.json, model.safetensors and a model card. Needs no network.

    For example: acmix hub save runs/NAME saved --license apache-2.0 --dataset "my photographs"
    """
    check_there_if_file(source)
    from acmix.tools.hub_save import save_pretrained

    say(console, f"written: {save_pretrained(source, folder, license=license, dataset=dataset)}")


@hub.command()
@clearing_up()
def push(
    source: Source,
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: License = None,
    dataset: Dataset = None,
    revision: Annotated[str | None, typer.Option("--branch", metavar="NAME", help="[default: main]")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request.")] = False,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace the repository's card, which is kept otherwise.")
    ] = False,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Of the commit.")] = "Add model",
) -> None:
    """Send a model to the hub, in one commit. The token is HF_TOKEN's, or that of `hf auth login`.

    For example: acmix hub push runs/NAME OWNER/NAME --license apache-2.0
    """
    check_there_if_file(source)
    from acmix.tools.hub_push import push_to_hub

    done = push_to_hub(
        source, repository, private=private or None, revision=revision, create_pr=pull_request,
        replace_card=replace_card, message=message, license=license, dataset=dataset,
    )  # fmt: skip
    say(console, f"sent: {done.url}")
    if done.kept_card:
        say(console, "the repository's card was kept; --replace-card writes it anew")


@hub.command()
@clearing_up()
def pull(
    repository: Repository,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    revision: Revision = None,
) -> None:
    """Fetch a model of the hub into a folder, which needs no network from then on.

    For example: acmix hub pull OWNER/NAME saved
    """
    from acmix.tools.hub_push import pull as run

    say(console, f"written: {run(repository, folder, revision=revision)}")
