"""Options of an export, and whether they go together: looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from acmix.errors import UsageError
from acmix.near import did_you_mean

FORMATS = ("onnx", "pt2")
# by their names on the command line
PRECISIONS = ("fp32", "fp16", "bf16")
OPSETS = range(18, 24)
INT8 = ("all", "auto")
# every exporter begins with the version of ONNX: protobuf's tag of the first field
ONNX_BEGINS = b"\x08"


def checked_options(
    place: Path, format: str | None, *, precision: str, opset: int | None, int8: str | None, data: str | None
) -> str:
    """The format of what is written; see `acmix.export.export` for the arguments.

    Raises:
        UsageError: an option cannot be, two do not go together, or nothing can be written there.
    """
    try:
        format = checked_format(place, format)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}; choose another place") from None
    if precision not in PRECISIONS:
        raise UsageError(f"--dtype {precision}: expected {', '.join(PRECISIONS)}")
    if format == "onnx" and precision == "bf16":
        raise UsageError("--dtype bf16: onnxruntime has no such operators on the CPU; use fp16, or the format pt2")
    if opset is not None and (format != "onnx" or opset not in OPSETS):
        raise UsageError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}, for the format onnx")
    check_int8(int8, data, format, precision)
    return format


def checked_format(place: Path, format: str | None) -> str:
    """The format of a destination.

    Raises:
        UsageError: none, or another than asked for; or something else stands there.
        OSError: nothing can stand there.
    """
    suffix = place.suffix.lower().removeprefix(".")
    if format is not None and format not in FORMATS:
        raise UsageError(f"--format {format}: {did_you_mean(format, FORMATS, otherwise='expected onnx or pt2')}")
    if suffix not in FORMATS or format not in (None, suffix):
        wanted = f".{format}" if format else ".onnx or .pt2"
        raise UsageError(f"{place}: expected a name that ends in {wanted}")
    if place.is_dir():
        raise UsageError(f"{place} is a folder; expected a file to write")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {place.parent} to write {place.name} into; make it first")
    if place.exists() and place.stat().st_size and not is_export(place):
        raise UsageError(f"{place} is there and no export; choose another name")
    return suffix


def is_export(place: Path) -> bool:
    """Whether a file is what an earlier export may have left."""
    from acmix.tools.exports import ONNX, kind_of

    kind = kind_of(place)
    if kind != ONNX:
        return bool(kind)
    with place.open("rb") as file:
        return file.read(1) == ONNX_BEGINS


def check_int8(int8: str | None, data: str | None, format: str, precision: str) -> None:
    """Refuses options of int8 that do not go together."""
    if int8 is None:
        if data is not None:
            raise UsageError("--data is for --int8, whose ranges come from images; add it, or leave --data out")
        return
    if int8 not in INT8:
        raise UsageError(f"--int8 {int8}: {did_you_mean(int8, INT8, otherwise='expected all or auto')}")
    if data is None:
        raise UsageError("--int8 needs --data DIR, whose images it takes ranges from and measures on")
    if format != "onnx" or precision != "fp32":
        raise UsageError(f"--int8 is for the format onnx in fp32, not {format} in {precision}; leave --dtype out")
