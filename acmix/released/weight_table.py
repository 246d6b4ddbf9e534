"""What a table of released weights is made of: rows with both names and shapes, and the sizes that fill them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from acmix.errors import UsageError
from acmix.near import did_you_mean


@dataclass(frozen=True)
class Row:
    """One line of a table: a tensor's name and shape there and here, and why they differ."""

    official: str
    # None: the file holds it, our state dict does not
    ours: str | None
    official_shape: str
    # empty: as official_shape
    shape: str = ""
    reason: str = "the same tensor"
    # the condition it depends on; empty: always there
    when: str = ""


def same(name: str, shape: str, when: str = "") -> Row:
    """A row for a tensor that has one name and one shape."""
    return Row(name, name, shape, when=when)


@dataclass(frozen=True)
class Pair:
    """A row with its numbers filled in: one tensor under both names."""

    official: str
    ours: str | None
    official_shape: tuple[int, ...]
    shape: tuple[int, ...]


class Layout(Protocol):
    """The sizes of one network of a family, read off its weights."""

    def pairs(self) -> Iterator[Pair]:
        """Every tensor under both names, in the released order."""
        ...

    def settings(self) -> dict[str, Any]:
        """The sizes under the names of the constructor's arguments."""
        ...

    def tables(self, img_size: int | tuple[int, int] | None) -> dict[str, Tensor]:
        """What the released code saves beside the weights, for images of that size; None: as the name says."""
        ...


def check_name(name: str, variants: Iterable[str]) -> None:
    """Refuses a name that is none of a family's, and suggests the closest."""
    if name not in (known := [*variants]):
        raise UsageError(f"no model {name!r}; {did_you_mean(name, known, otherwise=f'there are {known}')}")


def size_of(weights: Mapping[str, Tensor], keys: Iterable[str], dim: int, otherwise: int) -> int:
    """The size of the first of these tensors that is there and has that dimension."""
    found = (weights[key] for key in keys if key in weights and weights[key].ndim > dim)
    return next((tensor.shape[dim] for tensor in found), otherwise)


def fill(rows: Iterable[Row], numbers: Mapping[str, int], prefix: str = "") -> Iterator[Pair]:
    """Puts numbers into the rows' shapes, and a prefix before their names."""
    for row in rows:
        theirs, here = (
            tuple(numbers[word] if word in numbers else int(word) for word in text.split())
            for text in (row.official_shape, row.shape or row.official_shape)
        )
        yield Pair(prefix + row.official, None if row.ours is None else prefix + row.ours, theirs, here)
