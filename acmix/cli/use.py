"""Commands that use what a run left: evaluate, predict, convert, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acmix.cli.app import Checkpoint, DataOption, DeviceOption, app, console
from acmix.names import to_json
from acmix.train.terminal import say


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: DataOption,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per process. [default: the run's]", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read images. [default: the run's]", min=0)
    ] = None,
    precision: Annotated[str, typer.Option(metavar="FORMAT", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure accuracy on the validation images.

    The result is exact on any number of processes, also under torchrun.
    """
    from dataclasses import asdict

    from acmix.tools.evaluate import evaluate_checkpoint

    done = evaluate_checkpoint(
        checkpoint, data, batch_size=batch_size, workers=workers, precision=precision, device=device
    )
    result = done.result
    if not done.is_first:
        return
    if as_json:
        left_out = {"unreadable": done.unreadable, "notes": done.notes}
        typer.echo(to_json({"model": done.model, **asdict(result), **left_out}))
        return
    say(
        console,
        f"{done.model}: top-1 {result.top1:.3f} %, {f'top-5 {result.top5:.3f} %, ' if done.has_top5 else ''}"
        f"loss {result.loss:.4f}, {result.images} images",
    )
    for name in done.unreadable:
        say(console, f"  not counted, unreadable: {name}")
    for note in done.notes:
        say(console, f"  {note}")


@app.command()
def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(metavar="N", help="Number of classes to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
) -> None:
    """Print the most probable classes of images."""
    from dataclasses import asdict

    from acmix.tools.predict import predict as run

    unread = 0
    for one in run(checkpoint, images, top):
        unread += one.error is not None
        if as_json:
            typer.echo(to_json(asdict(one)))
        elif one.error is None:
            say(console, one.image)
            for name, probability in one.classes:
                say(console, f"  {probability:7.2%}  {name}")
        if one.error is not None:
            typer.echo(f"acmix: error: {one.error}", err=True)
    if unread:
        raise typer.Exit(2)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A checkpoint or YAML file, released or ours.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The file to write: .pt, .safetensors, .pth or .yaml.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model, if the file does not name it; see `acmix models`.")
    ] = None,
) -> None:
    """Convert released checkpoints and YAML files, and back.

    A released file becomes ours, and one of ours becomes a released one. Reading never executes code from a file.
    """
    from acmix.tools.convert import convert as run

    say(console, run(source, destination, name=name).summary)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The output folder of `acmix train`.")],
    data: Annotated[str | None, typer.Option(metavar="DIR", help="The images, if they moved since the run.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Write an HTML page about a run.

    It shows the learning curves, α and β of every block, the confusion matrix and sample predictions, in one file.
    """
    from acmix.tools.report import report as run

    say(console, f"report: {run(run_folder, data=data, device=device)}")
