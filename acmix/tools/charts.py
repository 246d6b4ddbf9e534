"""Turns what `acmix.train.plots` draws into SVG for a page, in whose style sheet the colours are variables.

The template lays a transparent band over every abscissa, with its values as `<title>`: no script is needed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from acmix.train import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# the colours of the drawings, by the names of the page's variables
COLOURS = {
    "attention": plots.ATTENTION,
    "convolution": plots.CONVOLUTION,
    "training": plots.TRAINING,
    "validation": plots.VALIDATION,
    "top5": plots.TOP5,
    "ink": plots.INK,
    "line": plots.GRID,
}
# a chart has a few hundred pixels: of more abscissas, as many say their values
MOST_BANDS = 400


@dataclass(frozen=True)
class Band:
    """A vertical strip of a chart, in its units, and what the values there are."""

    x: float
    width: float
    says: str


@dataclass(frozen=True)
class Chart:
    """A drawing of `width` by `height` units; no drawing where there is nothing to show."""

    title: str
    width: float
    height: float
    drawing: Markup
    bands: list[Band]


def chart(
    title: str,
    draw: Callable[[Axes], object],
    *,
    width: float = 350,
    height: float = 220,
    colours: Mapping[str, str] = COLOURS,
) -> Chart:
    """Draws on axes of their own.

    Args:
        title: what the chart shows; the page says it, in place of the title that `draw` may set.
        draw: puts lines on the axes.
        width, height: size of the drawing in its own units, points for its text; the page scales it.
        colours: that `draw` uses, by the names of the page's variables.
    """
    from matplotlib import rc_context

    figure = plots.new_figure(width / 72, height / 72)
    axes = figure.subplots()
    draw(axes)
    axes.set_title("", loc="left")
    if not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines):
        return Chart(title, width, height, Markup(), [])
    buffer = io.StringIO()
    # text stays text, in the font of the page; of a line much denser than its pixels only the outline is kept
    options: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.sans-serif": ["DejaVu Sans"],
        "path.simplify_threshold": 0.5,
    }
    with rc_context(options):
        figure.savefig(buffer, format="svg", transparent=True)
    return Chart(title, width, height, themed(buffer.getvalue(), colours), bands(axes, title, width))


def themed(svg: str, colours: Mapping[str, str]) -> Markup:
    """What stands in matplotlib's `<svg>`: without a style sheet and names of its own, in the page's colours."""
    drawing = svg[svg.index('<g id="figure_1">') : svg.rindex("</svg>")]
    # names like line2d_1 are not referred to, and would stand in the page once a chart
    drawing = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", drawing)
    for name, colour in colours.items():
        drawing = drawing.replace(colour, f"var(--{name})")
    return Markup(drawing)


def bands(axes: Axes, title: str, width: float) -> list[Band]:
    """The strips that tell the values of lines with markers; a line without them is background."""
    # matplotlib's own labels begin with _
    lines = {
        title if str(line.get_label()).startswith("_") else str(line.get_label()): np.asarray(line.get_xydata())
        for line in axes.lines
        if line.get_marker() != "None"
    }  # (points, 2) each
    if not lines:
        return []
    every = np.unique(np.concatenate([points[:, 0] for points in lines.values()]))
    xs = every[:: -(-len(every) // MOST_BANDS)].tolist()
    told: dict[float, list[str]] = {x: [] for x in xs}
    for name, points in lines.items():
        for x, y in points[np.isin(points[:, 0], xs)].tolist():
            told[x].append(f"{name} {y:.4g}")
    # from the figure's pixels to the drawing's units
    scale = width / axes.figure.bbox.width
    box = axes.get_window_extent()
    left, right = box.x0 * scale, box.x1 * scale
    places = [float(axes.transData.transform((x, 0.0))[0]) * scale for x in xs]
    edges = [left, *((a + b) / 2 for a, b in pairwise(places)), right]
    abscissa = axes.get_xlabel().partition(" (")[0]
    return [
        Band(start, end - start, f"{abscissa} {x:.4g}: {', '.join(told[x])}")
        for x, (start, end) in zip(xs, pairwise(edges), strict=True)
    ]
