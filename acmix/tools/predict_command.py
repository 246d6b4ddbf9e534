"""`acmix predict`: which images the arguments mean, and where the predictions go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from acmix.data.pictures import each_picture
from acmix.errors import UsageError
from acmix.names import shown
from acmix.tools.load import Info, load
from acmix.tools.predict import SCORE, TOP, Found, check_options, stream
from acmix.tools.predict_classes import Prediction
from acmix.tools.predict_drawings import DRAWN_TASKS, Drawings
from acmix.tools.predict_ids import Ids
from acmix.tools.predict_writers import ARRAY, FILES, TABLE, none_found, writer
from acmix.train.files import make_place
from acmix.train.terminal import new_console, say

STANDARD_INPUT = "-"
# names that are meant for files, and that no prediction is written to
OTHER_FILES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".txt",
    ".tsv",
    ".html",
    ".xml",
    ".yaml",
    ".pt",
    ".webp",
    ".gif",
    ".tif",
    ".pdf",
)


def run(
    source: str,
    arguments: Sequence[str],
    *,
    top: int | None = None,
    score: float | None = None,
    as_json: bool,
    output: Path | None,
    ids: Path | None = None,
    batch_size: int | None,
    workers: int | None,
    img_size: int | None,
    device: str,
) -> int:
    """Predicts, and prints, writes or draws each image while it goes.

    Args:
        source: as `acmix.load` takes it.
        arguments: files, folders, patterns, or "-" for paths on standard input, one a line.
        top: classes for each image, of a classifier.
        score: how sure a detector has to be of an object; by default 0.5 for what is printed and drawn, and 0 for JSON
            and tables.
        as_json: print JSON: an object a line of a classifier, otherwise COCO's array of results.
        output: a file to write instead, whole or not at all: .csv, .jsonl or .json; or a folder to draw into.
        ids: of a detector: annotations in COCO's format, whose ids of images and categories JSON then has.
        batch_size, workers, img_size, device: as `acmix.predict` and `acmix.load` take them.

    Returns:
        The exit status: 2 where an image could not be read.

    Raises:
        UsageError: the model or the output cannot be used.
    """
    if top is not None and top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    is_file = output is not None and output.suffix.lower() in FILES
    if is_file and as_json:
        raise UsageError(f"--json prints and --output writes a file; use one of them: a name in {FILES[1]} gives JSON")
    model, info = load(source, device=device, img_size=img_size)
    check_options(info.task, top, score)
    check_output(output, info.task)
    given = None
    if ids is not None:
        if info.task != "detect" or not (
            as_json or (is_file and output is not None and output.suffix.lower() != TABLE)
        ):
            raise UsageError("--ids is for COCO's results of a detector: use it with --json, or --output FILE.json")
        given = Ids(ids, info.classes)
    for line in said_of(info):
        say(new_console(stderr=True), line)
    pictures = each_picture([from_standard_input() if each == STANDARD_INPUT else each for each in arguments])
    total = None
    if STANDARD_INPUT not in arguments:
        pictures = list(pictures)
        total = len(pictures)
        if given is not None:
            given.check(pictures)
    folder = output if output is not None and not is_file else None
    drawings = None if folder is None else Drawings(folder, info, pictures, SCORE if score is None else score)
    keeps_all = as_json or is_file
    if info.task == "detect" and score is None:
        score = 0.0 if keeps_all else SCORE
    found = stream(model, pictures, top, score=score, batch_size=batch_size, workers=workers)
    images = unread = 0
    columns = min(TOP if top is None else top, len(info.classes))
    is_silent = folder is not None and not as_json
    with writer(
        info.task, output if is_file else None, as_json, columns, score, is_silent=is_silent, ids=given
    ) as write:
        for one in watched(found, total, hidden=output is None and sys.stdout.isatty()):
            images += 1
            if one.error is not None:
                unread += 1
                print(f"acmix: error: {shown(one.error)}", file=sys.stderr)
            elif drawings is not None and not isinstance(one, Prediction):
                drawings.draw(one)
            write(one)
    if output is not None:
        bad = f", {unread} of them unreadable" if unread else ""
        did = "written" if drawings is None else drawings.did
        console = new_console(stderr=as_json)
        say(console, f"{images} image{'s' * (images != 1)}{bad}; {did}: {output}")
        if drawings is not None and unread < images and not drawings.shows_something:
            say(console, f"nothing is drawn: {none_found(drawings.score)}; --score sets another limit")
    return 2 if unread else 0


def check_output(output: Path | None, task: str) -> None:
    """Refuses a place that cannot be written to, before anything is computed.

    Raises:
        UsageError: says which names there are.
    """
    if output is None:
        return
    suffix = output.suffix.lower()
    if suffix in FILES:
        if suffix == ARRAY and task not in DRAWN_TASKS:
            raise UsageError(f"--output {output}: expected a file whose name ends in .csv or .jsonl")
        make_place(output)
        return
    if task not in DRAWN_TASKS:
        raise UsageError(
            f"--output {output}: expected a file whose name ends in .csv or .jsonl; this model finds nothing to draw"
        )
    if suffix in OTHER_FILES and not output.is_dir():
        raise UsageError(
            f"--output {output}: expected a folder to draw into, or a file whose name ends in {', '.join(FILES)}"
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; expected a folder to draw into")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {output}: {error.strerror}; choose another place") from None
    if not os.access(output, os.W_OK):
        raise UsageError(f"cannot write into {output}: permission denied; choose another place")


def said_of(info: Info) -> Iterator[str]:
    """What a user should know before the first image: which file it is, and what was assumed."""
    if info.path is not None and os.path.isdir(os.path.expanduser(info.source)) and info.kind == "checkpoint":
        trained = f"epoch {info.epoch}" if info.epoch else "not evaluated yet"
        yield f"model: {info.path} ({', '.join([trained, *told_metrics(info)])})"
    for note in info.notes:
        yield f"note: {note}"


# the metrics of a task that say most in a line, and how they are called
TOLD = {
    "classify": {"top1": "top-1"},
    "detect": {"box_ap": "box AP", "mask_ap": "mask AP"},
    "segment": {"miou": "mIoU"},
}


def told_metrics(info: Info) -> list[str]:
    """The measures of a checkpoint in words."""
    unit = "" if info.task == "detect" else " %"
    names = TOLD[info.task].items()
    return [f"{title} {info.metrics[name]:.2f}{unit}" for name, title in names if name in info.metrics]


def from_standard_input() -> Iterator[str]:
    """Paths, one a line, as they come; bytes that are no UTF-8 stay what they are."""
    for line in sys.stdin.buffer:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield name


def watched(found: Iterable[Found], total: int | None, *, hidden: bool) -> Iterable[Found]:
    """The predictions, with a bar and the time left on a terminal, unless predictions are printed there."""
    from rich.progress import track

    console = new_console(stderr=True)
    hidden = hidden or not sys.stderr.isatty()
    return track(found, "predictions", total=total, console=console, transient=True, disable=hidden)
