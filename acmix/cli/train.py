"""`acmix train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from acmix.cli.app import DeviceOption, app, console, is_first_process
from acmix.cli.complete import configurations, settings
from acmix.train.terminal import say
from acmix.train.worker_error import is_launched


@app.command()
def train(
    configuration: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML file, a shipped name (acmix config show NAME), or a run folder, to go on.",
            autocompletion=configurations,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="Settings to change, such as train.epochs=2.", autocompletion=settings
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Folder with train/ and val/, or like COCO's or ADE20K's.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder. [default: runs/CONFIG, or -2, -3, ... beside others]"),
    ] = None,
    device: DeviceOption = "",
) -> None:
    """Train a model; the same command resumes it, other settings start another run.

    `acmix config` lists every setting.
    """
    from acmix.released import load_config
    from acmix.train.early import save_later
    from acmix.yaml_text import quoted

    save_later()

    # in quotes, so that no character of the path means anything
    given = [f"{key}={quoted(value)}" for key, value in (("data.dir", data), ("train.device", device)) if value]
    settings = load_config(configuration, [*given, *(overrides or [])])
    # after the settings are read, as this loads torch
    from acmix.train.loop import train as run
    from acmix.train.run_folder import DefaultFolder, named_by
    from acmix.train.signals import end_with_launcher
    from acmix.train.words import LAUNCHER_PROCESS

    if is_launched() or LAUNCHER_PROCESS in os.environ:
        end_with_launcher()
    default = DefaultFolder(Path(configuration).stem)
    place = output or named_by(configuration)
    summary = run(settings, place or default)
    if is_first_process():
        from acmix.tasks.evaluation import LABELS

        metric = summary.get("best_metric", "top1")
        best = summary.get(metric)
        measured = "not measured" if best is None else f"{best:.2f} % (epoch {summary['best_epoch']})"
        early = f"; ended early, after {summary['epochs']} epochs" if summary.get("ended") == "patience" else ""
        say(console, f"{LABELS[metric]} {measured}{early}; results in {place or default.path}")
