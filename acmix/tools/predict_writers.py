"""How `acmix predict` prints and writes predictions: text, JSON in COCO's result format, tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from acmix.errors import UsageError
from acmix.names import to_json, whole
from acmix.tools.found import Detected, Segmented
from acmix.tools.predict import Found
from acmix.tools.predict_classes import Prediction
from acmix.tools.predict_ids import Ids
from acmix.train.files import replaced_whole
from acmix.train.terminal import new_console, say

TABLE, LINES, ARRAY = FILES = (".csv", ".jsonl", ".json")
Write = Callable[[Any], None]


@contextmanager
def writer(
    task: str,
    output: Path | None,
    as_json: bool,
    columns: int,
    score: float | None,
    *,
    is_silent: bool = False,
    ids: Ids | None = None,
) -> Iterator[Write]:
    """What takes each prediction to its place.

    Args:
        task: of the model.
        output: a file, by whose name it is a table, JSON lines or a JSON array; None prints.
        as_json: print JSON.
        columns: classes that an image gets, of a classifier.
        score: how sure a detector had to be.
        is_silent: print nothing.
        ids: of images and categories in JSON; None: the names of files, and the places of classes.
    """
    if output is None:
        if is_silent:
            yield lambda one: None
        elif as_json and task != "classify":
            with array(print, ids) as write:
                yield write
        else:
            yield print_json if as_json else lambda one: print_text(one, score)
        return
    try:
        with replaced_whole(output) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
            suffix = output.suffix.lower()
            if suffix == TABLE:
                yield {"classify": as_table, "detect": as_objects, "segment": as_regions}[task](file, columns)
            elif suffix == LINES:
                yield as_lines(file, ids)
            else:
                with array(lambda text: print(text, file=file), ids) as write:
                    yield write
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}; choose another place") from None


def print_text(one: Found, score: float | None = None) -> None:
    """A line for the image and one for each class or object; an error stands on standard error."""
    if one.error is not None:
        return
    console = new_console()
    say(console, one.image)
    for line in lines_of(one, score):
        say(console, f"  {line}")


def lines_of(one: Found, score: float | None) -> list[str]:
    """What an image's text says."""
    if isinstance(one, Prediction):
        return [f"{probability:7.2%}  {name}" for name, probability in one.classes]
    if isinstance(one, Segmented):
        return [f"{each.share:7.2%}  {each.name}" for each in one.regions]
    lines = [f"{each.score:.3f}  {' '.join(f'{side:7.1f}' for side in each.box)}  {each.name}" for each in one.objects]
    return lines or [none_found(score)]


def none_found(score: float | None) -> str:
    """What is said where no object reaches a score."""
    return f"no object with a score of {score:g} or more" if score else "no object"


def print_json(one: Prediction) -> None:
    """One object a line."""
    print(to_json(asdict(one)))


@contextmanager
def array(put: Callable[[str], object], ids: Ids | None) -> Iterator[Write]:
    """A JSON array of COCO's results, one a line; unreadable images have none."""
    put("[")
    held: list[str] = []

    def write(one: Detected | Segmented) -> None:
        for row in rows_of(one, ids):
            # a comma stands behind every row but the last
            if held:
                put(f"{held.pop()},")
            held.append(to_json(row))

    yield write
    for row in held:
        put(row)
    put("]")


def rows_of(one: Detected | Segmented, ids: Ids | None) -> list[dict[str, Any]]:
    """An image's rows in COCO's result format, with the ids that a file gives, if one is given."""
    return one.as_coco() if ids is None or isinstance(one, Segmented) else ids.rows(one)


def as_lines(file: IO[str], ids: Ids | None) -> Write:
    """JSON lines: of a classifier the objects that `--json` prints, otherwise COCO's results, and errors."""

    def write(one: Found) -> None:
        if isinstance(one, Prediction):
            rows = [asdict(one)]
        else:
            rows = [{"image": one.image, "error": one.error}] if one.error is not None else rows_of(one, ids)
        for row in rows:
            print(to_json(row), file=file)

    return write


def as_table(file: IO[str], columns: int) -> Write:
    """CSV: the image, its classes with their probabilities, and what went wrong."""
    table = csv.writer(file, lineterminator="\n")
    pairs = [(f"class_{number}", f"probability_{number}") for number in range(1, columns + 1)]
    table.writerow(["image", *(name for pair in pairs for name in pair), "error"])

    def write(one: Prediction) -> None:
        cells = [cell for name, probability in one.classes for cell in (name, f"{probability:.6f}")]
        cells += [""] * (2 * columns - len(cells))
        table.writerow(whole([one.image, *cells, one.error or ""]))

    return write


def as_objects(file: IO[str], _: int) -> Write:
    """CSV: a row an object; an image without any, or one that could not be read, has one row."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["image", "class", "score", "left", "top", "right", "bottom", "error"])

    def write(one: Detected) -> None:
        rows = [[each.name, f"{each.score:.6f}", *(f"{side:.2f}" for side in each.box)] for each in one.objects]
        for row in rows or [[""] * 6]:
            table.writerow(whole([one.image, *row, one.error or ""]))

    return write


def as_regions(file: IO[str], _: int) -> Write:
    """CSV: a row a class that occurs, with its share of the pixels; an image that could not be read has one row."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["image", "class", "share", "error"])

    def write(one: Segmented) -> None:
        for row in [[each.name, f"{each.share:.6f}"] for each in one.regions] or [["", ""]]:
            table.writerow(whole([one.image, *row, one.error or ""]))

    return write
