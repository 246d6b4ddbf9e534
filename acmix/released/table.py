"""What a table between released and own parameter names is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


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
