"""The command line: parse, call, print. No logic."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from acmix.errors import UsageError
from acmix.tools.guard import guarded

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and use networks that mix self-attention and convolution (ACmix).",
)
# what the parser raises; typer has its own copy of it, or click's
CommandLineError: Any = typer.BadParameter.__base__
console = Console(highlight=False, soft_wrap=True)

Checkpoint = Annotated[Path, typer.Argument(help="best.pt, last.pt, or what `acmix convert` wrote.")]
DataOption = Annotated[str, typer.Option("--data", help="Folder with train/ and val/, or what timm's readers open.")]


@app.command()
def train(
    configuration: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped name.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="train.epochs=2 ...")] = None,
    data: DataOption = "",
    output: Annotated[Path | None, typer.Option(help="Run folder; runs/CONFIG by default.")] = None,
) -> None:
    """Train; the same command goes on where it stopped."""
    from acmix import config
    from acmix.train.loop import train as run

    where = [f"data.dir={json.dumps(data)}"] if data else []
    settings = config.load(configuration, [*where, *(overrides or [])])
    folder = output or Path("runs") / Path(configuration).stem
    summary = run(settings, folder)
    if is_first_process():
        top1 = "not measured" if summary["top1"] is None else f"{summary['top1']:.2f} % (epoch {summary['best_epoch']})"
        console.print(f"top-1 {top1}; everything lies in {folder}")


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: DataOption,
    batch_size: Annotated[int | None, typer.Option(help="Images a process and pass.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Reading processes.", min=0)] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a checkpoint on the validation images; exact on any number of processes."""
    from dataclasses import asdict

    from acmix.tools.evaluate import evaluate_checkpoint

    done = evaluate_checkpoint(checkpoint, data, batch_size=batch_size, workers=workers, precision=precision)
    result = done.result
    if not done.is_first:
        return
    if as_json:
        typer.echo(json.dumps({"model": done.model, **asdict(result), "unreadable": done.unreadable}))
        return
    console.print(
        f"{done.model}: top-1 {result.top1:.3f} %, top-5 {result.top5:.3f} %, loss {result.loss:.4f}, "
        f"{result.images} images"
    )
    for name in done.unreadable:
        console.print(f"  not counted, unreadable: {name}")


@app.command()
def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...")],
    top: Annotated[int, typer.Option(help="Classes to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Name what images show."""
    from dataclasses import asdict

    from acmix.tools.predict import predict as run

    unread = 0
    for one in run(checkpoint, images, top):
        unread += one.error is not None
        if as_json:
            typer.echo(json.dumps(asdict(one)))
        elif one.error is None:
            console.print(one.image, markup=False)
            for name, probability in one.classes:
                console.print(f"  {probability:7.2%}  {name}", markup=False)
        if one.error is not None:
            typer.echo(f"acmix: error: {one.error}", err=True)
    if unread:
        raise typer.Exit(2)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Official .pth or .yaml, or ours.")],
    destination: Annotated[Path, typer.Argument(help="The file to write: .pt, .safetensors, .pth or .yaml.")],
    name: Annotated[str | None, typer.Option(help="The model, where the file does not tell.")] = None,
) -> None:
    """Turn official checkpoints and configurations into ours, or ours into official ones."""
    from acmix.tools.convert import convert as run

    console.print(run(source, destination, name=name).summary, markup=False)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="What `acmix train` wrote.")],
    data: Annotated[str | None, typer.Option(help="Where the images are now; the run's own place by default.")] = None,
) -> None:
    """Write one self-contained HTML page of a run: curves, path rates, confusion, samples."""
    from acmix.tools.report import report as run

    console.print(f"report: {run(run_folder, data=data)}", markup=False)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="[FILTER]", help="Part of a name, or a pattern with *.")] = "",
) -> None:
    """List the models with their parameters and multiply-adds, the plain form beside ACmix."""
    from acmix.models import list_models
    from acmix.models.count import cost

    names = list_models(pattern if "*" in pattern or not pattern else f"*{pattern}*")
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


papers = typer.Typer(rich_markup_mode=None, help="The paper's tables, ours beside theirs.")
app.add_typer(papers, name="paper")


@papers.callback()
def paper() -> None:
    """The paper's tables, ours beside theirs."""


@papers.command("params")
def paper_params(
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write the figures here.")] = None,
) -> None:
    """Compare parameters and multiply-adds of every model, plain and ACmix, with the published ones."""
    from acmix.tools.paper import params, write

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
        console.print(f"{', '.join(names)}: {note}", markup=False)
    if csv is not None:
        write(rows, csv)
        console.print(f"written: {csv}", markup=False)


@app.command()
def build(force: Annotated[bool, typer.Option("--force", help="Build although they are built.")] = False) -> None:
    """Build the CPU kernels now, instead of at the first use of an operator."""
    from acmix.ops.cpu_build import build as run

    built = run(force=force)
    took = f"built in {built.seconds:.1f} s" if built.seconds else "built before; --force builds again"
    console.print(f"CPU kernels: {built.path} ({took})", markup=False)


benchmarks = typer.Typer(rich_markup_mode=None, help="Measure speed: of models, of operators, of reading images.")
app.add_typer(benchmarks, name="benchmark")

Formats = Annotated[list[str] | None, typer.Option("--dtype", help="fp32 or bf16; may be repeated.")]
FiguresOption = Annotated[Path | None, typer.Option("--csv", help="Also write the figures here.")]


@benchmarks.command("train", help="Time training steps, on N cards or beside a peer.")
@benchmarks.command("infer", help="Time inference, on N cards or beside a peer.")
def benchmark_models(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...")] = None,
    processes: Annotated[int, typer.Option("--gpus", help="Cards, or processes without one.")] = 1,
    batch_size: Annotated[int | None, typer.Option(help="Images a card and step.")] = None,
    img_size: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    against: Annotated[list[str] | None, typer.Option(help="timm, plain, reference (may be repeated) or all.")] = None,
    dtypes: Formats = None,
    seconds: Annotated[float, typer.Option(help="How long each pair is measured.")] = 10.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Also both sides under torch.compile.")] = False,
    plot: Annotated[Path | None, typer.Option("--profile", help="Tell where time goes, and draw it here.")] = None,
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
        list[str] | None, typer.Option("--operator", help="conv_path ... (may be repeated); all by default.")
    ] = None,
    dtypes: Formats = None,
    batch_size: Annotated[int, typer.Option(help="Images.")] = 8,
    seconds: Annotated[float, typer.Option(help="How long each pair is measured.")] = 1.0,
    csv: FiguresOption = None,
) -> None:
    """Time operators beside the reference and PyTorch's means."""
    from acmix.benchmark import command

    right = command.operators(names or [], dtypes=dtypes or [], batch_size=batch_size, seconds=seconds, csv=csv)
    raise typer.Exit(0 if right else 1)


@benchmarks.command("data")
def benchmark_data(
    workers: Annotated[int | None, typer.Option(help="Reading processes.", min=0)] = None,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=2)] = 32,
    img_size: Annotated[int, typer.Option(help="Side of the crops.")] = 224,
    seconds: Annotated[float, typer.Option(help="How long it is measured.")] = 10.0,
) -> None:
    """Time reading JPEG files, decoded and augmented."""
    from acmix.benchmark import benchmark_data as run

    run(workers=workers, batch_size=batch_size, img_size=img_size, seconds=seconds)


def wide() -> Console:
    """A console in which a table of models keeps its columns, also where nobody says how wide the terminal is."""
    return Console(width=max(console.width, 120))


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
