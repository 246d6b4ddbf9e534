"""`acmix export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from acmix.cli.app import app, check_there_if_file, console, print_table
from acmix.names import to_json
from acmix.tools.guard import clearing_up
from acmix.train.terminal import say


class WithInt8(TyperCommand):
    """A command whose `--int8` may stand alone, for `--int8 all`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Adds what is left out: what follows is another option, the file to write, or the end."""
        given = []
        for word, after in zip(args, [*args[1:], "-"], strict=True):
            is_alone = after.startswith("-") or Path(after).suffix.lower() in (".onnx", ".pt2")
            given += [word, "all"] if word == "--int8" and is_alone else [word]
        return super().parse_args(ctx, given)


@app.command(cls=WithInt8)
@clearing_up()
def export(
    source: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A run folder, a checkpoint, or timm model's name.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The file to write: .onnx or .pt2.")],
    format: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="onnx or pt2. [default: as DST ends]")
    ] = None,
    precision: Annotated[
        str, typer.Option("--dtype", metavar="FORMAT", help="fp32 or fp16; of a .pt2 file also bf16.")
    ] = "fp32",
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave non-maximum suppression out, of RetinaNet and FCOS.")
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Of ONNX, 18 to 23. [default: the exporter's]")] = None,
    int8: Annotated[
        str | None,
        typer.Option("--int8", metavar="[all|auto]", help="Compute with 8 bits; auto leaves in float what loses most."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="Images for --int8, as for `acmix train`.")
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time the file beside the model in PyTorch.")] = True,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time torch.compile and AOTInductor; takes minutes.")
    ] = False,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images of a timed batch.", min=1)] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", help="Of the rounds of each timed pair.", min=0.1)] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model as ONNX or as a PyTorch program that runs without acmix.

    Any batch, height and width goes in. The file says how images are prepared and what the classes are called. It is
    read back by a process that has no acmix, and compared with the model.

    For example: acmix export runs/NAME model.onnx
    """
    check_there_if_file(source)
    from dataclasses import asdict

    from acmix.export.options import checked_options

    # told at once, before PyTorch is loaded
    checked_options(destination.expanduser(), format, precision=precision, opset=opset, int8=int8, data=data)
    from acmix.export import export as run

    tell = (lambda line: None) if as_json else (lambda line: say(console, line))
    done = run(
        source, destination, format=format, precision=precision, suppress=not raw, opset=opset, int8=int8, data=data,
        tell=tell,
    )  # fmt: skip
    timed = []
    if time or compiled:
        from acmix.benchmark.exported import times

        timed = [*times(source, done, batch_size=batch_size, seconds=seconds, compiled=compiled, tell=tell)]
    if as_json:
        told = {"path": str(done.path), "format": done.format, "precision": done.precision, "mib": done.mib}
        told |= {"operators": done.operators, "differences": [asdict(each) for each in done.differences]}
        if done.quantised is not None:
            told["int8"] = told_of_int8(done.quantised)
        typer.echo(to_json({**told, "times": [asdict(each) for each in timed]}))
        return
    detects = done.description.task == "detect" and done.description.suppression
    head = ["images", "height × width", "largest difference", *(["objects", "not found", "others"] if detects else [])]
    if done.quantised is not None:
        head[2] = "largest difference, float file"
        head.append("8 bits")
    of_int8 = done.quantised.differences if done.quantised is not None else []
    rows = []
    for place, each in enumerate(done.differences):
        count, height, width = each.shape
        more = [str(each.objects), str(each.lost), str(each.extra)] if detects else []
        more += [f"{of_int8[place].largest:.1e}"] if of_int8 else []
        rows.append([str(count), f"{height} × {width}", f"{each.largest:.1e}", *more])
    print_table(head, rows)
    if done.quantised is not None:
        print_int8(done.quantised)
    if timed:
        print_table(
            ("way", "images", "ms", "÷ PyTorch", "quartiles"),
            [
                [
                    each.way, str(each.images), "–" if each.time_ms is None else f"{each.time_ms:.2f}",
                    "" if each.ratio is None else f"{each.ratio:.3g}",
                    each.note or ("" if each.low is None else f"{each.low:.3g} to {each.high:.3g}"),
                ]
                for each in timed
            ],
        )  # fmt: skip
    say(console, f"written: {done.path} ({done.mib:.1f} MiB, {done.precision})")


def told_of_int8(done: Any) -> dict[str, Any]:
    """What 8 bits cost, for JSON; top-1 in percent."""
    from dataclasses import asdict

    return {
        **asdict(done.quantised),
        "float_mib": done.float_mib,
        "validation": {"images": done.after.result.images, "before": done.before.result.metrics, "after": done.metrics},
        "differences": [asdict(each) for each in done.differences],
    }


def print_int8(done: Any) -> None:
    """What each group loses, and the accuracy before and after."""
    from acmix.tools.evaluate import in_one_line

    if done.quantised.drops:
        print_table(
            ("alone in int8", "nodes", "top-1 %", "points lost", "answers changed %", "now"),
            [
                [
                    each.group, str(each.nodes), f"{each.top1:.2f}", f"{each.drop:+.2f}", f"{each.changed:.2f}",
                    "float" if each.left_in_float else "int8",
                ]
                for each in done.quantised.drops
            ],
        )  # fmt: skip
    say(console, f"before, {done.float_mib:.1f} MiB: {in_one_line(done.before)}")
    say(console, f"after: {in_one_line(done.after)}")
