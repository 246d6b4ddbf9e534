"""Whose rows a classifier has: those of a file where they mean the classes of the data, new ones otherwise.

K classes. A row of a classifier means a class by its place alone, so a file's rows are of use only in the order of the
names they were trained for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acmix.errors import UsageError
from acmix.names import composed
from acmix.released.safe_load import FORMAT

HEADS = ("auto", "keep", "new")


@dataclass(frozen=True)
class Rows:
    """What becomes of a classifier.

    Args:
        are_taken: whether its rows come from the file.
        why: in a few words, where they do not, or where their order says something.
        order: the file's row for each class; None: as they are.
    """

    are_taken: bool
    why: str = ""
    order: list[int] | None = None


def are_names(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of ours names its classes; `acmix convert` writes numbers for released weights."""
    if "named" in content:
        return bool(content["named"])
    # as the converter of the first release did, and no run: that has taken steps
    classes = content.get("classes")
    numbered = isinstance(classes, list) and classes == [str(number) for number in range(len(classes))]
    return not (numbered and content.get("step") == 0)


def text_order(content: Mapping[str, Any]) -> list[int] | None:
    """The place of each class of a checkpoint of ours, in the order of the names sorted as text; None: that order."""
    classes = content.get("classes")
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes) or not are_names(content):
        return None
    order = sorted(range(len(classes)), key=classes.__getitem__)
    return None if order == [*range(len(classes))] else order


def rows_of(
    content: Mapping[str, Any],
    values: Mapping[str, Tensor],
    heads: set[str],
    own: Mapping[str, Tensor],
    where: str,
    classes: Sequence[str] | None,
    sorted_names: bool,
    choice: str,
) -> Rows:
    """Decides about the rows of a classifier.

    Args:
        content: the whole file; a checkpoint of ours names the classes.
        values: its tensors under the model's names.
        heads: names of the classifier's tensors.
        own: the model's state dict.
        where: the file, for messages.
        classes: names of the data's classes in the order of the labels, or None.
        sorted_names: whether labels follow from the names.
        choice: "auto", "keep" or "new"; see `start_from`.
    """
    there = [len(values[key]) for key in heads if key in values and values[key].ndim]
    here = [len(own[key]) for key in heads]
    if choice == "new":
        return Rows(False, "model.head=new")
    if not heads:
        # the body of a detector: what the file has for classes is left out
        return Rows(True)
    problem = ""
    if not heads <= values.keys() or not there:
        problem = "the file has no classifier"
    elif there != here:
        problem = f"the file's has {max(there)} classes, this one {max(here)}"
    if choice == "keep" and problem:
        raise UsageError(f"model.head=keep: {where} has no classifier that fits: {problem}; leave model.head out")
    if problem or choice == "keep":
        return Rows(not problem, problem or "rows as they are in the file, as model.head=keep says")
    if content.get("format") == FORMAT and are_names(content):
        return rows_by_name(
            [str(each) for each in content.get("classes") or []], max(there), where, classes, sorted_names
        )
    if classes is None or not sorted_names:
        return Rows(True)
    # whoever trains on folders sorts their names as text
    in_file = sorted(classes)
    order = None if in_file == [*classes] else [in_file.index(name) for name in classes]
    why = "the file names no classes: its rows are taken for the data's names sorted as text"
    return Rows(True, f"{why}; model.head=new draws new ones", order)


def rows_by_name(names: list[str], count: int, where: str, classes: Sequence[str] | None, sorted_names: bool) -> Rows:
    """The rows of named classes in the order of the data's."""
    if len(names) != count:
        raise UsageError(f"{where} names {len(names)} classes for {count} outputs; give a checkpoint that acmix wrote")
    numbers = [str(number) for number in range(count)]
    if classes is not None:
        names, classes = [*map(composed, names)], [*map(composed, classes)]
    if classes is None or names == [*classes]:
        return Rows(True)
    if not sorted_names and [*classes] == numbers:
        return Rows(True, "the data numbers its classes: rows are taken in the order of the file's")
    if sorted(names) == sorted(classes):
        return Rows(True, "rows in the order of the data's classes, by name", [names.index(name) for name in classes])
    other = next(name for name in classes if name not in names)
    return Rows(False, f"the file's classes are others: {other!r} is none of them; model.head=keep keeps its rows")
