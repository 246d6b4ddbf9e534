"""`acmix predict`: which images the arguments mean, and where the predictions go."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from acmix.data.pictures import each_picture
from acmix.errors import UsageError
from acmix.names import shown, to_json, whole
from acmix.tools.load import Info, load
from acmix.tools.predict import Prediction, stream
from acmix.train.files import make_place, replaced_whole
from acmix.train.terminal import new_console, say

STANDARD_INPUT = "-"
TABLE, LINES = ".csv", ".jsonl"


def run(
    source: str,
    arguments: Sequence[str],
    *,
    top: int,
    as_json: bool,
    output: Path | None,
    batch_size: int,
    workers: int | None,
    img_size: int | None,
    device: str,
) -> int:
    """Predicts, and prints or writes a line for each image while it goes.

    Args:
        source: as `acmix.load` takes it.
        arguments: files, folders, patterns, or "-" for paths on standard input, one a line.
        top: classes for each image.
        as_json: print JSON.
        output: the file to write instead: .csv or .jsonl, whole or not at all.
        batch_size, workers, img_size, device: as `acmix.predict` and `acmix.load` take them.

    Returns:
        The exit status: 2 where an image could not be read.

    Raises:
        UsageError: the model or the output cannot be used.
    """
    check_output(output, as_json)
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    model, info = load(source, device=device, img_size=img_size)
    for line in said_of(info):
        say(new_console(stderr=True), line)
    pictures = each_picture([from_standard_input() if each == STANDARD_INPUT else each for each in arguments])
    total = None
    if STANDARD_INPUT not in arguments:
        pictures = list(pictures)
        total = len(pictures)
    found = stream(model, pictures, top, batch_size=batch_size, workers=workers)
    images = unread = 0
    with writer(output, as_json, min(top, len(info.classes))) as write:
        for one in watched(found, total, hidden=output is None and sys.stdout.isatty()):
            images += 1
            if one.error is not None:
                unread += 1
                print(f"acmix: error: {shown(one.error)}", file=sys.stderr)
            write(one)
    if output is not None:
        bad = f", {unread} of them unreadable" if unread else ""
        say(new_console(), f"{images} image{'s' * (images != 1)}{bad}; written: {output}")
    return 2 if unread else 0


def check_output(output: Path | None, as_json: bool) -> None:
    """Refuses a file that cannot be written, before anything is computed."""
    if output is None:
        return
    if output.suffix.lower() not in (TABLE, LINES):
        raise UsageError(f"--output {output}: expected a file whose name ends in {TABLE} or {LINES}")
    if as_json:
        raise UsageError(f"--json prints and --output writes a file; use one of them: a name in {LINES} gives JSON")
    make_place(output)


def said_of(info: Info) -> Iterator[str]:
    """What a user should know before the first image: which file it is, and what was assumed."""
    if info.path is not None and os.path.isdir(os.path.expanduser(info.source)) and info.kind == "checkpoint":
        trained = f"epoch {info.epoch}" if info.epoch else "not evaluated yet"
        accuracy = "" if info.top1 is None else f", top-1 {info.top1:.2f} %"
        yield f"model: {info.path} ({trained}{accuracy})"
    for note in info.notes:
        yield f"note: {note}"


def from_standard_input() -> Iterator[str]:
    """Paths, one a line, as they come; bytes that are no UTF-8 stay what they are."""
    for line in sys.stdin.buffer:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield name


def watched(found: Iterable[Prediction], total: int | None, *, hidden: bool) -> Iterable[Prediction]:
    """The predictions, with a bar and the time left on a terminal, unless predictions are printed there."""
    from rich.progress import track

    console = new_console(stderr=True)
    hidden = hidden or not sys.stderr.isatty()
    return track(found, "predictions", total=total, console=console, transient=True, disable=hidden)


@contextmanager
def writer(output: Path | None, as_json: bool, columns: int) -> Iterator[Callable[[Prediction], None]]:
    """What takes each prediction to its place."""
    if output is None:
        yield print_json if as_json else print_text
        return
    try:
        with replaced_whole(output) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
            yield as_table(file, columns) if output.suffix.lower() == TABLE else as_lines(file)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}; choose another place") from None


def print_text(one: Prediction) -> None:
    """A line for the image and one for each class; an error stands on standard error."""
    if one.error is not None:
        return
    console = new_console()
    say(console, one.image)
    for name, probability in one.classes:
        say(console, f"  {probability:7.2%}  {name}")


def print_json(one: Prediction) -> None:
    """One object a line."""
    print(to_json(asdict(one)))


def as_lines(file: IO[str]) -> Callable[[Prediction], None]:
    """JSON lines, the objects that `--json` prints."""
    return lambda one: print(to_json(asdict(one)), file=file)


def as_table(file: IO[str], columns: int) -> Callable[[Prediction], None]:
    """CSV: the image, its classes with their probabilities, and what went wrong."""
    table = csv.writer(file, lineterminator="\n")
    pairs = [(f"class_{number}", f"probability_{number}") for number in range(1, columns + 1)]
    table.writerow(["image", *(name for pair in pairs for name in pair), "error"])

    def write(one: Prediction) -> None:
        cells = [cell for name, probability in one.classes for cell in (name, f"{probability:.6f}")]
        cells += [""] * (2 * columns - len(cells))
        table.writerow(whole([one.image, *cells, one.error or ""]))

    return write
