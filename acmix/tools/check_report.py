"""What `acmix data check` says: lines for people, and JSON with every name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from acmix.tools.check import ANIMATED, CMYK, DEEP, HUGE, NARROW, TINY, Copies, Split

# names that a line gives
SOME = 3
# images of the largest class to one of the smallest from which a line says so
UNBALANCED = 10
KINDS = (("deep", DEEP, "of more than 8 bits a channel"), ("cmyk", CMYK, "CMYK"), ("animated", ANIMATED, "animated"))


def is_sound(splits: Sequence[Split]) -> bool:
    """Whether nothing is broken or unreadable."""
    return not any(split.broken or (split.images is not None and split.images.reasons) for split in splits)


def odd_sizes(split: Split) -> dict[str, tuple[np.ndarray, str]]:
    """The rows of odd sizes by kind, and what is odd."""
    assert split.images is not None
    widths, heights = split.images.widths, split.images.heights
    short, long, is_read = np.minimum(widths, heights), np.maximum(widths, heights), widths > 0
    return {
        "tiny": (np.flatnonzero(is_read & (short < TINY)), f"with a side below {TINY} px"),
        "huge": (np.flatnonzero(widths * heights > HUGE), f"of more than {HUGE // 10**6} megapixels"),
        "narrow": (np.flatnonzero(is_read & (long > NARROW * short)), f"with a side over {NARROW} times the other"),
    }


def class_counts(split: Split) -> dict[str, int]:
    """The images of each class."""
    assert split.source is not None
    counts = np.bincount(split.source.targets, minlength=len(split.source.classes)).tolist()
    return dict(zip(split.source.classes, counts, strict=True))


def lines(splits: Sequence[Split], found: Sequence[Copies]) -> Iterator[str]:
    """The findings in lines."""
    for split in splits:
        if split.source is not None and split.images is not None:
            yield from of_split(split)
        for line in split.broken:
            yield f"{split.name}: broken: {line}"
    yield from of_copies(splits, found)
    if is_sound(splits):
        yield "every image can be read"


def of_split(split: Split) -> Iterator[str]:
    """Those of a split."""
    images = split.images
    assert split.source is not None
    assert images is not None
    counts = class_counts(split)
    classes = f" in {len(counts):,} classes" if split.has_labels else ""
    read = images.widths > 0
    sizes = ""
    if read.any():
        width, height = (int(np.median(side[read])) for side in (images.widths, images.heights))
        sizes = f", median {width}×{height} px"
    yield f"{split.name}: {len(split.source):,} images{classes}, {images.bytes.sum() / 1e6:,.1f} MB{sizes}"
    if split.has_labels:
        yield from of_classes(split.name, counts)
    if images.reasons:
        told = [f"{split.source.name(row)} ({images.reasons[row]})" for row in sorted(images.reasons)[:SOME]]
        yield f"{split.name}: {len(images.reasons):,} unreadable: {some(told, len(images.reasons))}"
    for rows, what in odd_sizes(split).values():
        if len(rows):
            yield f"{split.name}: {len(rows):,} {what}: {some(split.names(rows[:SOME]), len(rows))}"
    kinds = [f"{count:,} {what}" for _, bit, what in KINDS if (count := int((images.kinds & bit > 0).sum()))]
    if kinds:
        yield f"{split.name}: {', '.join(kinds)}"
    yield from (f"{split.name}: {note}" for note in split.source.notes)


def of_classes(name: str, counts: dict[str, int]) -> Iterator[str]:
    """How images are shared out among classes."""
    there = {each: count for each, count in counts.items() if count}
    if not there:
        return
    least, most = min(there, key=there.__getitem__), max(there, key=there.__getitem__)
    median = int(np.median(list(there.values())))
    if there[least] == there[most]:
        line = f"{name}: {there[least]:,} images per class"
    else:
        line = f"{name}: {there[least]:,} ({least}) to {there[most]:,} ({most}) images per class, median {median:,}"
    yield line + ("; unbalanced" if there[most] > UNBALANCED * there[least] else "")
    if len(there) < len(counts):
        without = [each for each, count in counts.items() if not count]
        yield f"{name}: {len(without):,} classes without images: {some(without[:SOME], len(without))}"


def of_copies(splits: Sequence[Split], found: Sequence[Copies]) -> Iterator[str]:
    """Which files are the same."""
    kinds = (
        ("images that are in several files", list(found)),
        ("of them in several splits", [each for each in found if each.splits > 1]),
        ("of them under several labels", [each for each in found if each.labels > 1]),
    )
    for what, groups in kinds:
        if groups:
            told = [" = ".join(shortened(splits, each)) for each in groups[:SOME]]
            yield f"duplicates: {what}: {len(groups):,}: {some(told, len(groups))}"


def shortened(splits: Sequence[Split], group: Copies) -> list[str]:
    """The first names of a group."""
    names = [splits[number].names([row])[0] for number, row in group.images[:SOME]]
    return names + ["…"] * (len(group.images) > SOME)


def some(names: Sequence[str], count: int) -> str:
    """The first names, and a sign that there are more."""
    return ", ".join(names[:SOME]) + (", …" if count > SOME else "")


def as_json(place: str, splits: Sequence[Split], found: Sequence[Copies]) -> dict[str, Any]:
    """Everything, with every name."""
    told: dict[str, Any] = {"data": place, "sound": is_sound(splits), "splits": {}}
    for split in splits:
        each: dict[str, Any] = {"broken": split.broken}
        told["splits"][split.name] = each
        if split.source is None or split.images is None:
            continue
        images = split.images
        each |= {"images": len(split.source), "bytes": int(images.bytes.sum())}
        if split.has_labels:
            each["classes"] = class_counts(split)
        each["unreadable"] = [
            {"name": split.source.name(row), "reason": reason} for row, reason in sorted(images.reasons.items())
        ]
        each |= {kind: split.names(rows) for kind, (rows, _) in odd_sizes(split).items()}
        each |= {kind: split.names(np.flatnonzero(images.kinds & bit)) for kind, bit, _ in KINDS}
    told["duplicates"] = [
        {
            "images": [splits[number].names([row])[0] for number, row in group.images],
            "several_splits": group.splits > 1,
            "several_labels": group.labels > 1,
        }
        for group in found
    ]
    return told
