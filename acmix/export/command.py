"""Exports a trained model: reads it, writes the file, runs the file where acmix is not, and compares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from acmix.errors import UsageError
from acmix.export.compare import Difference, compare, seeing_all
from acmix.export.forms import PRECISIONS, Form, form_of, structured
from acmix.export.int8 import Int8, check_source, to_int8
from acmix.export.options import checked_options
from acmix.export.write import reason, write
from acmix.extras import install
from acmix.tools.description import Description, config_of, sides_of
from acmix.tools.exports import CANNOT_RUN, kind_of
from acmix.tools.load import Info, load
from acmix.tools.preparation import preprocessing_of
from acmix.train.files import replaced_whole

# what writes a file of ONNX, and what runs it for the comparison
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file.
        format: "onnx" or "pt2".
        precision: of the weights.
        description: what stands in it.
        mib: its size.
        operators: of its graph.
        differences: from the model itself, of several batches and sizes.
        quantised: of int8: how it came about; its differences are those of the float form.
    """

    path: Path
    format: str
    precision: str
    description: Description
    mib: float
    operators: int
    differences: list[Difference] = field(default_factory=list)
    quantised: Int8 | None = None


def export(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str | None = None,
    precision: str = "fp32",
    suppress: bool = True,
    opset: int | None = None,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    int8: str | None = None,
    data: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Exported:
    """Exports a trained model to one file, in the folded form, with batch, height and width open.

    A classifier that takes images of one size alone is written for that size: height and width are fixed.

    | task | inputs, float32 | outputs |
    |---|---|---|
    | classify | images (B, C, h, w) | logits (B, K) |
    | segment | images (B, C, h, w) | logits (B, K, h, w) |
    | detect | images (B, C, H, W), sizes (B, 2) | boxes (B, D, 4), scores (B, D), labels (B, D), masks (B, D, 28, 28) |

    Images are prepared as the file's `preprocessing` says; see `acmix.tools.description` and `acmix.export.detector`.

    Args:
        source: what `acmix.load` takes, but for exports.
        destination: the file to write: .onnx or .pt2.
        format: "onnx" or "pt2"; None: as the destination ends.
        precision: number format of the weights, "fp32", "fp16" or, of a program, "bf16".
        suppress: of RetinaNet and FCOS: False leaves non-maximum suppression out.
        opset: of ONNX, 18 to 23; None: the exporter's own.
        shapes: (images, height, width) that the file is tried on; by default three around the model's own size.
        int8: of a classifier as ONNX: "all" or "auto" computes with 8 bits; see `acmix.export.int8`.
        data: folder whose training images give the ranges, and whose validation images are measured on, for int8.
        tell: called with a line for each step.

    Raises:
        UsageError: the source, the destination or an option cannot be used, or the file computes something else: then
            what stood at the destination before is as it was.
    """
    place = Path(os.path.expanduser(destination))
    format = checked_options(place, format, precision=precision, opset=opset, int8=int8, data=data)
    check_packages(format)
    given = Path(os.path.expanduser(source))
    if given.is_file() and (kind := kind_of(given)):
        raise UsageError(f"{source} is an export already ({kind}); give the checkpoint that it was made from")
    model, info = load(source, device="cpu")
    if not suppress and info.task != "detect":
        raise UsageError(f"{source} is no detector, and has no suppression to be left out; leave the option out")
    if int8 and data is not None:
        check_source(source, info, data)
    height, width = sides_of(info.img_size)
    why = why_one_size(model.float(), info) if info.task == "classify" else ""
    tried = shapes or (shapes_of(info) if not why else [(count, height, width) for count in (2, 1, 3)])
    if why:
        if wrong := [each for each in tried if each[1:] != (height, width)]:
            raise UsageError(f"{info.model} takes images of {height} × {width} alone, not {list(wrong[0][1:])} ({why})")
        tell(f"{info.model} takes images of {height} × {width} alone ({why}): height and width are fixed in the file")
    form = form_of(
        model.float(), info.task, img_size=info.img_size, in_chans=info.in_chans, dtype=PRECISIONS[precision],
        suppress=suppress, fixed_size=bool(why),
    )  # fmt: skip
    described = description_of(form, info, precision, suppress, fixed_size=bool(why))
    tell(f"writing {place}: {info.head + ' on ' if info.head else ''}{info.model} as {format}, {precision}")
    quantised = None
    try:
        with tempfile.TemporaryDirectory() as folder, replaced_whole(Path(os.path.realpath(place))) as unfinished:
            # touched first: the exporters have errors of their own for a folder that cannot be written to
            unfinished.touch()
            operators = write(form, format, unfinished, described.texts(), opset)
            mib = unfinished.stat().st_size / 2**20
            tell(f"{mib:.1f} MiB, {operators:,} operators; comparing in a process without acmix")
            differences = compare(
                unfinished, format, model, info.task, info.in_chans, tried, Path(folder),
                precision=precision, suppress=suppress, name=place.name,
            )  # fmt: skip
            if info.task == "detect" and suppress and not any(each.objects for each in differences):
                tell("the model finds nothing in the images it is tried on; comparing a copy that keeps every score")
                differences = compare_copy(seeing_all(model), info, format, opset, tried, Path(folder), place.name)
                if not any(each.objects for each in differences):
                    tell("nor does the copy: no object was compared")
            if int8 and data is not None:
                precision, described = "int8", described.model_copy(update={"precision": "int8"})
                quantised = to_int8(unfinished, info, described, int8, data, Path(folder), tell)
                described = described.model_copy(update={"metrics": quantised.metrics})
                tell("running the file with 8 bits in a process without acmix")
                told = compare(
                    unfinished, format, model, info.task, info.in_chans, tried, Path(folder),
                    precision=precision, name=place.name,
                )  # fmt: skip
                quantised = replace(quantised, differences=told)
                mib = unfinished.stat().st_size / 2**20
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror or error}; choose another place") from None
    return Exported(place, format, precision, described, mib, operators, differences, quantised)


def compare_copy(
    model: nn.Module,
    info: Info,
    format: str,
    opset: int | None,
    shapes: Sequence[tuple[int, int, int]],
    folder: Path,
    name: str,
) -> list[Difference]:
    """Writes a detector in float32 into a folder and compares it, for a file whose own model finds nothing."""
    form = form_of(model, info.task, img_size=info.img_size, in_chans=info.in_chans, dtype=torch.float32, suppress=True)
    copy = folder / f"copy.{format}"
    write(form, format, copy, {}, opset)
    return compare(copy, format, model, info.task, info.in_chans, shapes, folder, name=name)


def check_packages(format: str) -> None:
    """Refuses ONNX without the packages for it, before any work."""
    for name in PACKAGES if format == "onnx" else ():
        try:
            import_module(name)
        except ImportError:
            raise UsageError(f"exporting to ONNX needs {name}; run {install('export')}") from None


@torch.no_grad()
def why_one_size(model: nn.Module, info: Info) -> str:
    """Why a classifier takes images of its own size alone, in its own words; "" where it takes another one."""
    _, *smaller = shapes_of(info)[1]
    try:
        model(structured(1, info.in_chans, *smaller))
    except CANNOT_RUN as error:
        return reason(error).rstrip(".")
    return ""


def shapes_of(info: Info) -> list[tuple[int, int, int]]:
    """Batches and sizes to try: the model's own, a smaller image that is no square, and more images."""
    height, width = sides_of(info.img_size)
    return [(2, height, width), (1, height * 3 // 4 + 1, width), (3, height, width + width // 4)]


def description_of(form: Form, info: Info, precision: str, suppress: bool, *, fixed_size: bool = False) -> Description:
    """What the file says of itself."""
    from acmix import __version__

    return Description(
        model=info.model,
        task=info.task,  # type: ignore[arg-type]
        head=info.head,
        classes=tuple(info.classes),
        named=info.are_named,
        preprocessing=preprocessing_of(vars(info), info.config),
        fixed_size=fixed_size,
        suppression=suppress,
        precision=precision,
        versions={"acmix": __version__, "torch": torch.__version__},
        metrics=dict(info.metrics),
        epoch=info.epoch,
        config=config_of(info.config),
        inputs=form.inputs,
        outputs=form.outputs,
    )
