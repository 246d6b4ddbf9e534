"""Labels as a trained model means them: its names of classes decide, not the order in which data comes.

    | data | labels follow from | a model that names its classes | one that numbers them |
    |---|---|---|---|
    | folders, tar files | the names | by name | its numbers are those of all names sorted as text |
    | lists, hfds/, hfids/, wds/ | numbers | by name where the data has names, else by number | by number |

Shards follow what they were written from. K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from acmix.config import Data
from acmix.data.shards.source import Shards, find_shards
from acmix.data.sources import Files, Source, data_folder, has_lists, has_split, open_source
from acmix.errors import UsageError
from acmix.names import places

# how many names a message gives
SHOWN = 5


@dataclass(frozen=True)
class Trained:
    """The classes that a model knows.

    Args:
        names: in the order of its outputs.
        are_named: False where they are numbers in place of names, as in released weights.
        where: what holds them, for messages.
    """

    names: list[str]
    are_named: bool
    where: str


def labels_follow_names(data: Data) -> bool:
    """Whether labels are places in the sorted names of folders, rather than numbers that the data gives."""
    if data.format != "auto":
        return False
    shards = find_shards(data)
    return not has_lists(data_folder(data), data) if shards is None else shards.info.labels == "by name"


def as_trained(data: Data, classes: list[str]) -> Trained | None:
    """What decides about the labels of the validation split while a model is trained; None: the source itself does.

    Each split of a reader of timm's numbers its classes in its own way.
    """
    return None if data.format == "auto" else Trained(classes, True, f"the split {data.train_split!r}")


def open_trained(data: Data, split: str, trained: Trained) -> Source:
    """Opens a split with the labels that a model means.

    Args:
        data: as for `open_source`.
        split: "train" or "val".
        trained: the model's classes; the split may lack some of them.

    Raises:
        UsageError: as `open_source`; the split has classes that the model does not know, or it is unclear which
            they are.
    """
    data, notes = with_its_own_validation(data)
    by_name = labels_follow_names(data)
    if by_name and trained.are_named and data.split is None:
        # the split's own names, not those of train/
        own = data.train_split if split == "train" else data.val_split
        source = open_source(data.model_copy(update={"train_split": own}), split, advise=False)
    else:
        source = open_source(data, split, advise=False)
    found = source.classes
    targets = source.targets
    if isinstance(source, Files) and not by_name and found != trained.names:
        found = listed_names(source)
    used = np.unique(targets).tolist()
    table = labels(found, trained, data.shown_dir or data.format, used=used, follow_names=by_name)
    classes, targets = list(trained.names), np.array(table, dtype=np.int64)[targets]
    notes = [*source.notes, *notes]
    if isinstance(source, (Files, Shards)):
        return replace(source, classes=classes, targets=targets, notes=notes)
    source.classes, source.targets, source.notes = classes, targets, notes  # type: ignore[attr-defined,misc]
    return source


def with_its_own_validation(data: Data) -> tuple[Data, list[str]]:
    """Data with validation images of its own is measured on these, not on what the run held out of other data."""
    if data.split is None or not has_split(data, "val"):
        return data, []
    held_out = f"the run held out images by data.split={data.split:g}"
    note = f"measured on {data.val_split}, which {data.shown_dir} has; {held_out}"
    return data.model_copy(update={"split": None}), [note]


def labels(
    found: Sequence[str],
    trained: Trained,
    data: str,
    *,
    used: Sequence[int] | None = None,
    follow_names: bool = False,
) -> list[int]:
    """The model's label for each label of the data; -1 for one that no image has and the model does not know.

    Args:
        found: the data's names by label; its numbers where it has no names.
        trained: the model's classes.
        data: what holds it, for messages.
        used: the labels that images have; None: all.
        follow_names: whether the data's labels follow from its names.

    Raises:
        UsageError: the data has classes that the model does not know, or it is unclear which they are.
    """
    count = len(trained.names)
    used = range(len(found)) if used is None else used
    if follow_names and not trained.are_named:
        if len(found) != count:
            raise UsageError(
                f"{trained.where} knows its {count} classes by number alone, and {data} has {len(found)} folders of "
                "classes, so it is unclear which is which; give data with all of them in train/"
            )
        return [sorted(found).index(name) for name in found]
    by_number = [*found] == numbers(len(found)) or trained.names == numbers(count)
    if not trained.are_named or (by_number and not follow_names):
        if beyond := [label for label in used if label >= count]:
            raise UsageError(f"{data} has a label {beyond[0]}, but {trained.where} has {count} classes, from 0")
        return [label if label < count else -1 for label in range(len(found))]
    # by name
    place = places(trained.names)
    table = [-1 if (label := place(name)) is None else label for name in found]
    if unknown := [found[label] for label in used if table[label] < 0]:
        raise UsageError(
            f"{trained.where} was trained on other classes than those of {data}: it does not know {some(unknown)}, but "
            f"{some(trained.names)}; give the data it was trained for"
        )
    return table


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def listed_names(source: Files) -> list[str]:
    """Names for the labels of a list file, also where it leaves some labels out: the folders of their images.

    Each label's images have to lie in one folder of another name than the other labels'; else numbers are all there is.
    """
    folders: dict[int, set[str]] = {}
    for path, label in zip(source.paths.tolist(), source.targets.tolist(), strict=True):
        folders.setdefault(label, set()).add(os.path.basename(os.path.dirname(os.fsdecode(path))))
    count = max(folders) + 1
    names = {label: next(iter(each)) for label, each in folders.items() if len(each) == 1}
    if len(names) < len(folders) or len({*names.values()}) < len(names):
        return numbers(count)
    return [names.get(label, str(label)) for label in range(count)]


def numbers(count: int) -> list[str]:
    """What classes are called that have no names."""
    return [str(label) for label in range(count)]
