"""List files: a line an image, `path label`, with the labels counted from 0."""

from __future__ import annotations

import codecs
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from acmix.errors import UsageError

LINE = re.compile(r"(?P<path>\s*\S.*?)(?P<gap>[ \t]+)(?P<label>[0-9]+)[ \t]*")
# digits: more classes than this, empty ones counted, no model has
LONGEST_LABEL = 6
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_list(root: Path, split: str) -> tuple[list[str], list[int]]:
    """The paths, relative to root, and the labels of a list file.

    Raises:
        UsageError: no such file, no text, a line of another form, or a file that is not there.
    """
    file = root / f"{split}_list.txt"
    if not file.is_file():
        raise UsageError(f"{root} has no {file.name}; expected lines of `path label` in it, as in the other list file")
    # one listing a folder instead of one question a file: a million questions are slow over a network
    listings: dict[str, set[str]] = {}
    paths, targets = [], []
    for line_number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file} line {line_number}"
        match = LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{where}: {line.strip()!r} is not of the form `path label`, e.g. `cat/001.jpg 7`")
        ways = [os.path.join(*place, path) for path in spellings(match) for place in ((), (split,))]
        there = next((each for each in ways if exists(os.path.join(root, each), listings)), None)
        if there is None:
            path = match["path"].strip()
            raise UsageError(f"{where}: no file {path}, neither in {root} nor in {root / split}")
        paths.append(there)
        if len(label := match["label"].lstrip("0")) > LONGEST_LABEL:
            raise UsageError(f"{where}: the label {label} is too large; expected numbers of classes, from 0")
        targets.append(int(match["label"]))
    if not paths:
        raise UsageError(f"{file} lists no images; expected lines of `path label`")
    return paths, targets


def read_lines(file: Path) -> list[str]:
    """The lines of a text file: UTF-8 or UTF-16, with or without a byte order mark, of any system's line ends.

    Bytes that are no UTF-8 stay what they are, as in the names of files.
    """
    try:
        content = file.read_bytes()
        if content.startswith(UTF_16):
            text = content.decode("utf-16")
        else:
            text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}; check its permissions") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; expected lines of `path label`") from None
    return re.split(r"\r\n|\r|\n", text)


def spellings(match: re.Match[str]) -> Iterator[str]:
    """The paths that a line may mean, the literal one first: with blanks at its ends, in quotes, as Windows writes."""
    whole = match["path"] + match["gap"][:-1]
    path = match["path"].strip()
    yield whole
    yield path
    if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'":
        path = path[1:-1]
        yield path
    if "\\" in path:
        yield path.replace("\\", "/")


def exists(path: str, listings: dict[str, set[str]]) -> bool:
    """Whether a file is there, by a listing of its folder."""
    parent, name = os.path.split(path)
    if parent not in listings:
        listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
    return name in listings[parent]


def list_classes(paths: list[str], targets: list[int]) -> list[str]:
    """Names for 0 to the largest label: the images' folder where that names one class only, else the number."""
    folders: dict[int, set[str]] = defaultdict(set)
    for path, target in zip(paths, targets, strict=True):
        folders[target].add(os.path.basename(os.path.dirname(path)))
    count = max(targets) + 1
    names = [next(iter(folders[label])) for label in range(count) if len(folders[label]) == 1]
    if len(names) == count and len(set(names)) == count:
        return names
    return [str(label) for label in range(count)]
