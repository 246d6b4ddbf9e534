"""Draws line charts as inline SVG whose colours come from the page's style sheet, so that light and dark both fit.

Under the pointer a chart says its values: every abscissa owns a transparent band with a `<title>`; no script is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

# a line of more points than this is averaged in equal bins: a chart has a few hundred pixels
MOST_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line of a chart; `style` is a class of the page's style sheet."""

    name: str
    style: str
    xs: Sequence[float]
    ys: Sequence[float]
    # a quiet line is background: it has no legend, no last dot and no value under the pointer
    quiet: bool = False
    markers: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    unit: str = "",
    width: int = 400,
    height: int = 230,
    x_from: float | None = None,
    y_range: tuple[float, float] | None = None,
    rules: Sequence[float] = (),
) -> str:
    """Draws lines over a common axis.

    Args:
        series: the lines; points that are not finite are left out.
        title: what the chart shows, for those who cannot see it.
        x_label: the name of the horizontal axis.
        unit: written behind values under the pointer.
        width, height: size of the drawing in its own units; the page scales it.
        x_from: where the horizontal axis begins; None: at the first value.
        y_range: bounds of the vertical axis; None: those of the values.
        rules: abscissas to mark by a dotted line.

    Returns:
        An `<svg>` element, or a paragraph that says that there is nothing to draw.
    """
    lines = [
        (one, thinned([(x, y) for x, y in zip(one.xs, one.ys, strict=True) if math.isfinite(y)])) for one in series
    ]
    lines = [(one, points) for one, points in lines if points]
    if not lines:
        return '<p class="absent">Nothing recorded yet.</p>'
    every = [point for _, points in lines for point in points]
    left, right, top, bottom = 46, width - 10, 10, height - 34
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    x_ticks = ticks(first if x_from is None else x_from, last, most=6, whole=True)
    y_ticks = ticks(*(y_range or (min(y for _, y in every), max(y for _, y in every))), most=5)
    x_low, x_high = min(x_ticks[0], first), max(x_ticks[-1], last)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1.0)
        up = (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1.0)
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{number(tick)}</text>')
    for rule in rules:
        x = place(rule, y_ticks[0])[0]
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
    label_place = f'x="{(left + right) / 2:.0f}" y="{height - 3}" text-anchor="middle"'
    parts.append(f'<text class="axis" {label_place}>{escape(x_label)}</text>')
    for one, points in lines:
        placed = [place(x, y) for x, y in points]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="line {one.style}{" quiet" if one.quiet else ""}" points="{drawn}"/>')
        dots = placed if one.markers else [] if one.quiet else placed[-1:]
        parts += [f'<circle class="dot {one.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in dots]
    parts += bands(
        [(one, points) for one, points in lines if not one.quiet], place, (left, right), (top, bottom), x_label, unit
    )
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """The names of the lines beside their colours."""
    keys = "".join(
        f'<li><svg viewBox="0 0 22 10" width="22" height="10" aria-hidden="true">'
        f'<line class="line {one.style}" x1="1" x2="21" y1="5" y2="5"/></svg>{escape(one.name)}</li>'
        for one in series
        if not one.quiet
    )
    return f'<ul class="legend">{keys}</ul>'


def bands(lines, place, across: tuple[float, float], down: tuple[float, float], x_label: str, unit: str) -> list[str]:
    """Transparent strips, one an abscissa, that tell the values there."""
    told: dict[float, list[str]] = {}
    for one, points in lines:
        for x, y in points:
            told.setdefault(x, []).append(f"{one.name} {y:.4g}{unit}")
    xs = sorted(told)
    centres = [place(x, 0.0)[0] for x in xs]
    edges = [across[0], *((a + b) / 2 for a, b in pairwise(centres)), across[1]]
    top, bottom = down
    return [
        f'<rect class="hit" x="{edges[i]:.1f}" y="{top}" width="{max(0.5, edges[i + 1] - edges[i]):.1f}" '
        f'height="{bottom - top}"><title>{escape(f"{x_label} {number(x)}: " + ", ".join(told[x]))}</title></rect>'
        for i, x in enumerate(xs)
    ]


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points, each the mean of a bin; the last point stays what it was."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / (MOST_POINTS - 1))
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins]
    return [*means, points[-1]]


def ticks(low: float, high: float, *, most: int, whole: bool = False) -> list[float]:
    """Round numbers that enclose the values; with `whole`, integers within them where there are any."""
    if high - low < 1e-12:
        pad = abs(low) * 0.1 or 1.0
        low, high = (low - 1.0, high + 1.0) if whole else (low - pad, high + pad)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
        first, last = math.ceil(low / step), math.floor(high / step)
        return [index * step for index in range(first, last + 1)] or [low, high]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """A short form: 0.25, 12, 5e−5."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e5):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")
