"""Commands that use what a run left: evaluate, predict, convert, report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from acmix.cli.app import Checkpoint, DataOption, DeviceOption, app, check_there, check_there_if_file, console, wide
from acmix.names import shown, to_json
from acmix.tools.guard import clearing_up
from acmix.train.terminal import say


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: DataOption,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the validation split. [default: the run's]")
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="data.format, where the run's is not auto.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per process. [default: the run's]", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read images. [default: the run's]", min=0)
    ] = None,
    precision: Annotated[str, typer.Option(metavar="FORMAT", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: DeviceOption = "auto",
    scales: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Sizes to average over, of a segmenter: 0.5,1,1.5.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image too, of a segmenter.")] = False,
    sliding: Annotated[
        bool, typer.Option("--sliding", help="Look through windows of task.crop, of a segmenter.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure accuracy, AP or mIoU on the validation images.

    The result is exact on any number of processes, also under torchrun.
    """
    if not str(checkpoint).startswith("hf-hub:"):
        check_there(checkpoint)
    from dataclasses import asdict

    from acmix.tools.evaluate import class_table, evaluate_checkpoint, in_one_line, parsed_scales

    done = evaluate_checkpoint(
        checkpoint, data, batch_size=batch_size, workers=workers, precision=precision, device=device,
        scales=parsed_scales(scales), flip=flip, sliding=sliding, split=split, format=reader,
    )  # fmt: skip
    result = done.result
    if not done.is_first:
        return
    if as_json:
        left_out = {"unreadable": done.unreadable, "notes": done.notes}
        told = asdict(result)
        typer.echo(to_json({"model": done.model, **told.pop("metrics"), **told, **left_out}))
        return
    say(console, in_one_line(done))
    for line in result.lines:
        say(console, line)
    if result.by_class:
        head, rows = class_table(result.by_class)
        table = Table(box=None)
        for column in head:
            table.add_column(column, justify="left" if column == "class" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(shown, row))
        wide().print(table)
    for name in done.unreadable:
        say(console, f"  not counted, unreadable: {name}")
    for note in done.notes:
        say(console, f"  {note}")


@app.command()
@clearing_up()
def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Checkpoint, run folder, export (.pt2, .onnx, TorchScript), or timm model's name.",
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, quoted patterns; - reads paths, one per line."),
    ],
    top: Annotated[
        int | None, typer.Option(metavar="N", help="Number of classes to print, of a classifier. [default: 5]")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Least score of an object, of a detector. [default: 0.5; tables: 0]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: an object per image, or COCO's results.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE", help="Draw into DIR, or write FILE.csv, .jsonl or .json."),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="COCO annotations whose ids of images and categories JSON takes."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per forward pass. [default: 32]", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Threads that read images. [default: the cores, at most 4]", min=0)
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the images, for an export of any size.", min=1)
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Print what images show, or draw the objects or classes in them.

    For example: acmix predict runs/NAME photos/ --output drawn
    """
    check_there_if_file(source)
    from acmix.tools.predict_command import run

    status = run(
        source, images, top=top, score=score, as_json=as_json, output=output, ids=ids,
        batch_size=batch_size, workers=workers, img_size=img_size, device=device,
    )  # fmt: skip
    raise typer.Exit(status)


@app.command()
@clearing_up()
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

    It shows the learning curves, α and β of every block, and what is right and wrong in predictions, in one file.
    """
    from acmix.tools.report import report as run

    page = run(run_folder, data=data, device=device, tell=partial(say, console))
    say(console, f"report: {page}")
