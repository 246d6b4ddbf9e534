"""`acmix benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acmix.cli import complete
from acmix.cli.app import app
from acmix.errors import UsageError

benchmarks = typer.Typer(rich_markup_mode=None, help="Measure the speed of models, operators and image reading.")
app.add_typer(benchmarks, name="benchmark")

Formats = Annotated[
    list[str] | None, typer.Option("--dtype", metavar="FORMAT", help="fp32 or bf16; repeat it for both.")
]
FiguresOption = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the figures to a file.")]
BOUND = "Bound on the whole, in seconds: ceilings, checks, warm-up, rounds. What has begun is brought to its end."
ForceOption = Annotated[bool, typer.Option("--force", help="Also measure formats in which this machine is slow.")]

# options of `acmix benchmark scale` that go with --measure
OF_MEASURING = ("data", "processes", "seconds", "output")


@benchmarks.command("train", help="Time training steps: on N cards, or paired with another model.")
@benchmarks.command("infer", help="Time inference: on N cards, or paired with another model.")
def benchmark_models(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Names as in `acmix models`. [default: ACmix-Swin-T]",
            autocompletion=complete.models,
        ),
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
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help=f"{BOUND} [default: 20, 10 more a pair, or what five rounds need, at most 600]"),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Also measure both under torch.compile.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Print where the time goes, and draw it.")
    ] = None,
    csv: FiguresOption = None,
    force: ForceOption = False,
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
        force=force,
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
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help=f"{BOUND} [default: 10, and 1 more a pair]")
    ] = None,
    csv: FiguresOption = None,
    force: ForceOption = False,
) -> None:
    """Time operators, paired with the reference and PyTorch's functions."""
    from acmix.benchmark import command

    right = command.operators(
        names or [], dtypes=dtypes or [], batch_size=batch_size, seconds=seconds, csv=csv, force=force
    )
    raise typer.Exit(0 if right else 1)


@benchmarks.command("data")
def benchmark_data(
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read images. [default: the cores, at most 8]", min=0)
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per batch.", min=2)] = 32,
    img_size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the crops.")] = 224,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Bound on the whole, in seconds: writing the files, starting, reading.")
    ] = 15.0,
    against: Annotated[
        list[str] | None, typer.Option(metavar="PEER", help="timm: read the same files by its loaders, in turn.")
    ] = None,
    card: Annotated[float, typer.Option(metavar="X", help="Images/s of a card; says how many cores feed it.")] = 1000.0,
    draft: Annotated[bool, typer.Option("--draft", help="Decode large files at a part of their size.")] = False,
    file_size: Annotated[str, typer.Option(metavar="WxH", help="Sides of the files in pixels.")] = "500x375",
    csv: FiguresOption = None,
) -> None:
    """Time reading, decoding and augmenting JPEG files: of all processes, and of a core by stage."""
    from acmix.benchmark.loading import benchmark_data as run
    from acmix.benchmark.loading import file_size_of

    run(
        workers=workers,
        batch_size=batch_size,
        img_size=img_size,
        seconds=seconds,
        against=against or [],
        card=card,
        draft=draft,
        size=file_size_of(file_size),
        csv=csv,
    )


@benchmarks.command("scale")
def benchmark_scale(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Other parts, or with --measure other settings of CONFIG."),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your figures, as YAML or JSON. [default: the recipe, assumed networks]"),
    ] = None,
    cards: Annotated[
        str, typer.Option(metavar="N,N", help="Numbers of cards. [default: 1,8,64,512]", show_default=False)
    ] = "",
    measured: Annotated[
        str | None, typer.Option("--measure", metavar="CONFIG", help="Measure the parts of a run on this machine.")
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="DIR", help="With --measure: images. [default: drawn]", show_default=False)
    ] = "",
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --measure: how many. [default: a process a GPU, or 2]", min=1),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="With --measure: for each of four parts.")] = 10.0,
    output: Annotated[Path, typer.Option(metavar="FILE", help="With --measure: where the parts are written.")] = Path(
        "parts.yaml"
    ),
    csv: FiguresOption = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw efficiency against cards.")] = None,
) -> None:
    """Predict images/s and efficiency on many cards, from measured parts."""
    from acmix.benchmark.scale import command

    if measured is None:
        given = [name for name in OF_MEASURING if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
        if given:
            raise UsageError(f"--{given[0]} is for a measurement; add --measure CONFIG, or leave it out")
        command.scale(overrides or [], parts=parts, cards=cards, csv=csv, plot=plot)
        return
    if parts is not None:
        raise UsageError("--measure writes parts and --parts reads them; give one of them")
    command.measure(
        measured,
        overrides or [],
        data=data,
        processes=processes,
        seconds=seconds,
        output=output,
        cards=cards,
        csv=csv,
        plot=plot,
    )
