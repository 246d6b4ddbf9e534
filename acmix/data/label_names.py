"""What the classes of label maps are called: `task.classes`, else a list that lies beside the data, else numbers.

`objectInfo150.txt` is ADE20K's list: a table with the columns Idx, …, Name, of which the first synonym is taken.
`classes.txt` has a name a line, the first for the first class.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acmix.config import Task
from acmix.data.classes import Trained, labels, numbers
from acmix.data.dataset import OtherClasses
from acmix.data.label_maps import IGNORED
from acmix.data.lists import read_lines
from acmix.errors import UsageError

OBJECT_INFO, CLASSES = "objectInfo150.txt", "classes.txt"
# bytes: no list of names is longer
LONGEST = 1_000_000


@dataclass(frozen=True)
class Labels:
    """What the labels of a data set are.

    Args:
        names: of the classes, by label.
        stored: how many classes the label maps tell apart; others than `names` has where a model names more.
        table: the label for each class of the label maps, and 255 for 255: uint8 (256,); None where it is the same.
        notes: lines that a user should hear.
    """

    names: list[str]
    stored: int
    table: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def open_labels(root: Path, task: Task, trained: Trained | None = None) -> Labels:
    """Finds out what the labels of a data set are.

    Args:
        root: the data folder, which may hold a list of names.
        task: gives num_classes, ignore_zero, and classes, which come before any list.
        trained: the classes of a model, whose labels the data then has; None: the data's own.

    Raises:
        UsageError: more classes than a label map can hold, a list that is none, that names a class twice or that names
            another number of classes (`OtherClasses`), or classes that the model does not know.
    """
    assert task.num_classes is not None
    most = IGNORED - int(bool(task.ignore_zero))
    if task.num_classes > most:
        raise UsageError(
            f"task.num_classes={task.num_classes}; expected at most {most}: {IGNORED} marks pixels that are ignored"
        )
    listed_names, where = listed(root)
    given = list(task.classes or ())
    names = given or listed_names or numbers(task.num_classes)
    notes = []
    if given and listed_names and listed_names != given:
        notes.append(f"the names of the classes are those of task.classes, which differ from {where}")
    if trained is not None:
        # every class is known, else `labels` raises
        table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
        table[: len(names)] = labels(names, trained, str(root))
        return Labels(list(trained.names), len(names), table, tuple(notes))
    if len(names) != task.num_classes:
        raise OtherClasses(
            f"{where} names {len(names)} classes, but task.num_classes is {task.num_classes}; set "
            f"task.num_classes={len(names)}",
            len(names),
        )
    return Labels(names, len(names), None, tuple(notes))


def listed(root: Path) -> tuple[list[str], str]:
    """The names of the list beside the data and that file; nothing where there is none."""
    for name, read in ((OBJECT_INFO, table_names), (CLASSES, line_names)):
        file = root / name
        if file.is_file():
            if os.path.getsize(file) > LONGEST:
                raise UsageError(f"{file} is no list of names: it has more than {LONGEST} bytes; replace or remove it")
            names = read(file)
            if not names:
                raise UsageError(f"{file} names no class; write the names into it, or remove it")
            if len(names) > IGNORED:
                raise UsageError(f"{file} names {len(names)} classes; expected at most {IGNORED} in label maps")
            if twice := [name for place, name in enumerate(names) if name in names[:place]]:
                raise UsageError(f"{file} names the class {twice[0]!r} twice; give each class its own name")
            return names, str(file)
    return [], ""


def line_names(file: Path) -> list[str]:
    """A name a line."""
    return [name for line in read_lines(file) if (name := line.strip())]


def table_names(file: Path) -> list[str]:
    """The column Name of ADE20K's table: the first synonym of each, or all of them where two classes share one."""
    header, *rows = [line for line in read_lines(file) if line.strip()] or [""]
    separator = "\t" if "\t" in header else ","
    columns = [column.strip() for column in header.split(separator)]
    if "Idx" not in columns or "Name" not in columns:
        raise UsageError(f"{file} has no columns Idx and Name; expected ADE20K's table, or names in {CLASSES} instead")
    names = []
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row.split(separator)]
        if len(cells) != len(columns) or cells[columns.index("Idx")] != str(number):
            raise UsageError(
                f"{file}: row {number} is {row.strip()[:60]!r}; expected {len(columns)} columns with Idx {number}"
            )
        names.append(cells[columns.index("Name")])
    first = [re.split("[,;]", name)[0].strip() for name in names]
    return first if len(set(first)) == len(first) else names
