"""The command line: parse, call, print. No logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from acmix.errors import UsageError
from acmix.names import to_json
from acmix.tools.guard import guarded
from acmix.train.terminal import new_console, say

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and use vision models that combine self-attention and convolution (ACmix).",
    epilog="`acmix COMMAND --help` lists a command's options. Start with: acmix train acmix_swin_digits --data DIR",
)
# what the parser raises; typer has its own copy of it, or click's
CommandLineError: Any = typer.BadParameter.__base__
console = new_console()

CHECKPOINT = "A checkpoint of a run (checkpoints/best.pt), or a file that `acmix convert` wrote."
Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT)]
DataOption = Annotated[str, typer.Option("--data", metavar="DIR", help="Folder with train/ and val/.")]


@app.command()
def train(
    configuration: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a name under acmix/configs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Settings to change, such as train.epochs=2.")
    ] = None,
    data: DataOption = "",
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder. [default: runs/CONFIG]")] = None,
) -> None:
    """Train a model; the same command resumes.

    acmix/config.py documents every setting.
    """
    from acmix.released import load_config
    from acmix.train.loop import train as run
    from acmix.yaml_text import quoted

    # in quotes, so that no character of the path means anything
    where = [f"data.dir={quoted(data)}"] if data else []
    settings = load_config(configuration, [*where, *(overrides or [])])
    folder = output or Path("runs") / Path(configuration).stem
    summary = run(settings, folder)
    if is_first_process():
        top1 = "not measured" if summary["top1"] is None else f"{summary['top1']:.2f} % (epoch {summary['best_epoch']})"
        say(console, f"top-1 {top1}; results in {folder}")


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure accuracy on the validation images.

    The result is exact on any number of processes, also under torchrun.
    """
    from dataclasses import asdict

    from acmix.tools.evaluate import evaluate_checkpoint

    done = evaluate_checkpoint(checkpoint, data, batch_size=batch_size, workers=workers, precision=precision)
    result = done.result
    if not done.is_first:
        return
    if as_json:
        left_out = {"unreadable": done.unreadable, "notes": done.notes}
        typer.echo(to_json({"model": done.model, **asdict(result), **left_out}))
        return
    say(
        console,
        f"{done.model}: top-1 {result.top1:.3f} %, top-5 {result.top5:.3f} %, loss {result.loss:.4f}, "
        f"{result.images} images",
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
) -> None:
    """Write an HTML page about a run.

    It shows the learning curves, α and β of every block, the confusion matrix and sample predictions, in one file.
    """
    from acmix.tools.report import report as run

    say(console, f"report: {run(run_folder, data=data)}")


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern with *.")] = "",
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


papers = typer.Typer(rich_markup_mode=None, help="Compare our figures with the paper's.")
app.add_typer(papers, name="paper")


@papers.callback()
def paper() -> None:
    """Compare our figures with the paper's."""


@papers.command("params")
def paper_params(
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures to a file.")] = None,
) -> None:
    """Compare parameters and multiply-adds with the paper's."""
    from acmix.tools.paper import params, write
    from acmix.train.files import make_place

    make_place(csv)
    with console.status("counting") as status:
        rows = params(lambda name: status.update(f"counting {name}"))
    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for column in ("form", "parameters", "published", "%", "gmacs", "published", "%"):
        table.add_column(column, justify="right")
    for row in rows:
        millions = f"{int(row.parameters) / 1e6:.2f} M"
        table.add_row(
            row.model, row.form, millions, row.published_parameters, row.parameters_percent,
            row.gmacs, row.published_gmacs, row.gmacs_percent,
        )  # fmt: skip
    wide().print(table)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        names = [row.model.removeprefix("acmix_") for row in rows if row.note == note]
        say(console, f"{', '.join(names)}: {note}")
    if csv is not None:
        write(rows, csv)
        say(console, f"written: {csv}")


@app.command()
def build(force: Annotated[bool, typer.Option("--force", help="Compile again.")] = False) -> None:
    """Compile the CPU kernels now instead of on first use."""
    from acmix.ops.build import build as run

    built = run(force=force)
    took = f"built in {built.seconds:.1f} s" if built.seconds else "already built; --force compiles again"
    say(console, f"CPU kernels: {built.path} ({took})")


benchmarks = typer.Typer(rich_markup_mode=None, help="Measure the speed of models, operators and image reading.")
app.add_typer(benchmarks, name="benchmark")

Formats = Annotated[
    list[str] | None, typer.Option("--dtype", metavar="FORMAT", help="fp32 or bf16; repeat it for both.")
]
FiguresOption = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures to a file.")]
SecondsOption = Annotated[float, typer.Option(metavar="S", help="Measuring time per pair, in seconds.")]


@benchmarks.command("train", help="Time training steps: on N cards, or paired with another model.")
@benchmarks.command("infer", help="Time inference: on N cards, or paired with another model.")
def benchmark_models(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Names as in `acmix models`. [default: ACmix-Swin-T]")
    ] = None,
    processes: Annotated[
        int, typer.Option("--gpus", metavar="N", help="Number of cards; processes if there is none.")
    ] = 1,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per card and step.")] = None,
    img_size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the images.")] = 224,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="timm, plain, reference or all; repeat it for several."),
    ] = None,
    dtypes: Formats = None,
    seconds: SecondsOption = 10.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Also measure both under torch.compile.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Print where the time goes, and draw it.")
    ] = None,
    csv: FiguresOption = None,
) -> None:
    from acmix.benchmark import command

    right = command.models(
        str(context.info_name),
        names or [],
        processes=processes,
        batch_size=batch_size,
        img_size=img_size,
        against=against or [],
        dtypes=dtypes or [],
        seconds=seconds,
        compiled=compiled,
        plot=plot,
        csv=csv,
    )
    raise typer.Exit(0 if right else 1)


@benchmarks.command("ops")
def benchmark_ops(
    names: Annotated[
        list[str] | None,
        typer.Option("--operator", metavar="NAME", help="Such as conv_path; repeat it for several. [default: all]"),
    ] = None,
    dtypes: Formats = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per call.")] = 8,
    seconds: SecondsOption = 1.0,
    csv: FiguresOption = None,
) -> None:
    """Time operators, paired with the reference and PyTorch's functions."""
    from acmix.benchmark import command

    right = command.operators(names or [], dtypes=dtypes or [], batch_size=batch_size, seconds=seconds, csv=csv)
    raise typer.Exit(0 if right else 1)


@benchmarks.command("data")
def benchmark_data(
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read images. [default: the cores, at most 8]", min=0)
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per batch.", min=2)] = 32,
    img_size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the crops.")] = 224,
    seconds: Annotated[float, typer.Option(metavar="S", help="Measuring time in seconds.")] = 10.0,
) -> None:
    """Time reading, decoding and augmenting JPEG files."""
    from acmix.benchmark.loading import benchmark_data as run

    run(workers=workers, batch_size=batch_size, img_size=img_size, seconds=seconds)


def wide() -> Console:
    """A console in which a table of models keeps its columns, also where nobody says how wide the terminal is."""
    return new_console(width=max(console.width, 120))


def is_first_process() -> bool:
    """Whether this process is the one that prints, alone or under torchrun."""
    import os

    return os.environ.get("RANK", "0") == "0"


def parse_and_call() -> None:
    """Runs the command that was typed; what cannot be parsed is a usage error like any other."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="acmix", standalone_mode=False))
    except CommandLineError as error:
        raise UsageError(f"{error.format_message().rstrip('.')}; see --help") from None


def main() -> None:
    """Entry point of `acmix` and `python -m acmix`."""
    guarded(parse_and_call)
