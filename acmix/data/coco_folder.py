"""Where the annotations and the images of a split lie in a folder laid out as COCO's, or nearly so."""

from __future__ import annotations

from pathlib import Path

from acmix.config import Data
from acmix.data.sources import split_name
from acmix.errors import UsageError

ANNOTATIONS = ("annotations/instances_{}.json", "annotations/{}.json", "{}/_annotations.coco.json")
IMAGES = ("{}", "images/{}")
# splits that a message names
SHOWN = 5


def find_split(data: Data, split: str) -> tuple[Path, Path]:
    """Finds a split.

    Args:
        data: gives dir, and the name of the split in train_split or val_split.
        split: "train" or "val".

    Returns:
        The file of annotations and the folder of images.

    Raises:
        UsageError: one of them is missing, or a format that is for classification.
    """
    if data.format != "auto":
        raise UsageError(f"data.format={data.format} is for task.name=classify; leave it out: detection reads COCO's")
    layout = "a folder with annotations/instances_train2017.json and train2017/"
    if not data.dir:
        raise UsageError(f"no data folder is given; add --data DIR, {layout}")
    root = Path(data.dir).expanduser()
    if not root.is_dir():
        raise UsageError(f"{root} is {'a file' if root.exists() else 'not there'}; expected {layout}")
    name = split_name(data, split)
    file = annotations_of(root, name)
    if file is None:
        raise UsageError(f"{root} has no {ANNOTATIONS[0].format(name)}{instead(root, split, data)}")
    folders = [root / each.format(name) for each in IMAGES]
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is None:
        raise UsageError(f"{root} has no folder {name}/ or images/{name}/; expected the images of {file.name} in it")
    return file, folder


def annotations_of(root: Path, name: str) -> Path | None:
    """The file of annotations of a split, if there is one."""
    files = [root / each.format(name) for each in ANNOTATIONS]
    return next((each for each in files if each.is_file()), None)


def instead(root: Path, split: str, data: Data) -> str:
    """What to add where a split is missing: which there are, and how to name one."""
    found = splits(root)
    if not found:
        if splits(root.parent):
            return f"; {root.parent} holds annotations: give that folder"
        return (
            f", nor any other annotations in COCO's format ({', '.join(each.format('SPLIT') for each in ANNOTATIONS)});"
            " expected a folder like COCO's"
        )
    some = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
    others = [each for each in found if each != (data.val_split if split == "train" else data.train_split)]
    left = others or found
    likely = next((each for each in found if each.startswith(split)), left[0] if len(left) == 1 else "")
    option = f" (with acmix evaluate: --split {likely or 'NAME'})" if split == "val" else ""
    if not likely:
        return f"; it has annotations of {some}: set data.train_split and data.val_split to two of them{option}"
    return f"; it has annotations of {some}: set data.{split}_split={likely}{option}, or name another"


def splits(root: Path) -> list[str]:
    """The names of the splits that have annotations in a folder, sorted."""
    found = set()
    for pattern in ANNOTATIONS:
        before, _, after = pattern.partition("{}")
        for path in root.glob(f"{before}*{after}"):
            found.add(path.relative_to(root).as_posix().removeprefix(before).removesuffix(after))
    # annotations/{}.json meets annotations/instances_{}.json as well
    return sorted(each for each in found if not each.startswith("instances_"))
