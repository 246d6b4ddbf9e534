"""What is measured of a tool, and when the figure of our model is as good as the plain model's."""

from __future__ import annotations

import math
from typing import NamedTuple

# an effect on our model may be this many times the effect on the plain model, or so much less
ORDER = 10.0


class Count(NamedTuple):
    """How many of the parts that a tool touched it had an effect on: all, or all but as many as in the plain model."""

    done: int
    of: int

    def __str__(self) -> str:
        return f"{self.done}/{self.of}"

    def holds(self, plain: Figure | None) -> bool:
        spared = plain.of - plain.done if isinstance(plain, Count) else 0
        return self.of > 0 and self.of - self.done <= spared


class Effect(NamedTuple):
    """By how much a tool changes something, relative to its size: not 0, and of the plain model's order."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:.2g}"

    def holds(self, plain: Figure | None) -> bool:
        if not 0 < self.value < math.inf:
            return False
        return not isinstance(plain, Effect) or not plain.value or 1 / ORDER <= self.value / plain.value <= ORDER


class Error(NamedTuple):
    """A difference that should be 0 but for rounding."""

    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.value:.0e}" if self.value else "0"

    def holds(self, plain: Figure | None) -> bool:
        return self.value <= self.limit


Figure = Count | Effect | Error
Figures = dict[str, Figure]


class Fault(NamedTuple):
    """Why a tool did not get to its end."""

    text: str

    def __str__(self) -> str:
        return self.text


class NotApplicable(Exception):
    """A tool that has nothing to do with a family."""


class Cell(NamedTuple):
    """A tool on a family: on ours, and on the same without a convolution path."""

    tool: str
    family: str
    ours: Figures | Fault
    plain: Figures | Fault

    @property
    def verdict(self) -> str:
        """ "yes", "no", "not installed" or "neither", where the tool fails on the plain model too."""
        for side in (self.ours, self.plain):
            if isinstance(side, Fault) and side.text.startswith(("not installed", "does not apply")):
                return side.text.partition(":")[0]
        if isinstance(self.ours, Fault):
            return "neither" if isinstance(self.plain, Fault) else "no"
        plain = {} if isinstance(self.plain, Fault) else self.plain
        return "yes" if all(figure.holds(plain.get(name)) for name, figure in self.ours.items()) else "no"

    def text(self) -> str:
        """Our figures, and the plain model's behind them."""
        if isinstance(self.ours, Fault):
            return str(self.ours)
        plain = {} if isinstance(self.plain, Fault) else self.plain
        beside = [
            f"{name} {figure}" + (f" ({plain[name]})" if name in plain else "") for name, figure in self.ours.items()
        ]
        return ", ".join(beside)
