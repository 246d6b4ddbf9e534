"""Figures as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from acmix.benchmark.record import WRONG
from acmix.errors import UsageError

# a cell of a row whose other cells are known
UNKNOWN = "–"


def table(names: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Markdown; the first column is text, the others are figures."""
    names = list(names)
    head = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    return [*head, *[f"| {' | '.join(line)} |" for line in lines]]


def ratio_of(row: dict[str, str] | None, *, spread: bool = False) -> str:
    """A speed-up, with quartiles if asked; WRONG where the result is, or that there is none."""
    if row is None:
        return UNKNOWN
    if row["speed_up"] == WRONG:
        return WRONG
    middle = three(float(row["speed_up"]))
    return (
        f"{middle} ({three(float(row['speed_up_low']))} to {three(float(row['speed_up_high']))})" if spread else middle
    )


def three(value: float) -> str:
    """Three digits at least, and no more behind the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def percent(share: str) -> str:
    """A share, 0 to 1, as whole hundredths."""
    return f"{100 * float(share):.0f} %"


def range_of(values: list[float]) -> str:
    """The median, and the lowest and the highest where they are more than a hundredth apart."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return three(middle) + (f" ({three(low)} to {three(high)})" if high > 1.01 * low else "")


def put_between(page: Path, start: str, end: str, text: str) -> None:
    """Puts text between two marks on a page.

    Raises:
        UsageError: the page lacks a mark.
    """
    head, first, rest = page.read_text(encoding="utf-8").partition(start)
    _, last, tail = rest.partition(end)
    if not first or not last:
        raise UsageError(f"{page} has no {start!r} … {end!r}")
    page.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")
