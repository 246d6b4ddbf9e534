"""Names beside the points of a drawing, where they lie on nothing and inside the axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from acmix.train.plots import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

# in points of 1/72 inch: of a dot, of what is kept free around a name, and how far a name may lie from its dot
DOT, GAP, FURTHEST = 3.5, 1.5, 64
# half of an arrow's head
LINE = 2.0
# what a step along a line is, and a name further from its dot than this gets a line to it
STEP, NEAR = 3.0, 12.0
SIZE = 8

Place = tuple[float, float]


def write_names(
    axes: Axes,
    names: Sequence[tuple[str, Place]],
    dots: Sequence[Place] = (),
    lines: Sequence[tuple[Place, Place]] = (),
) -> None:
    """Writes the name of each point beside it; call it when all else is drawn.

    Args:
        axes: whose limits stay as they are from here on.
        names: (name, point), in the data's coordinates.
        dots, lines: what else is drawn and must not be covered.
    """
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    # limits, and the places of axes and legend, are known from here on
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    taken = [around(axes, point, DOT * unit) for point in [*dots, *(point for _, point in names)]]
    taken += [around(axes, point, LINE * unit) for line in lines for point in along(axes, line, STEP * unit)]
    if (legend := axes.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    for name, point in names:
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=SIZE, color=INK, va="baseline")
        size = text.get_window_extent()
        origin = axes.transData.transform(point)
        best, least = (DOT + GAP, DOT + GAP), math.inf
        for right, up in offsets(size.width / unit, size.height / unit):
            left, low = origin[0] + right * unit, origin[1] + up * unit
            box = Bbox.from_bounds(left, low, size.width, size.height)
            if not (axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)):
                continue
            hidden = sum(box.padded(GAP * unit).overlaps(other) for other in taken)
            if hidden < least:
                best, least = (right, up), hidden
            if not hidden:
                break
        # a name's own box reaches below its line
        below = (size.y0 - origin[1]) / unit
        text.set_position((best[0], best[1] - below))
        left, low = origin[0] + best[0] * unit, origin[1] + best[1] * unit
        taken.append(Bbox.from_bounds(left, low, size.width, size.height))
        across = max(best[0], -best[0] - size.width / unit, 0.0)
        if math.hypot(across, max(best[1], -best[1] - size.height / unit, 0.0)) > NEAR:
            tie(axes, point, taken[-1])


def offsets(width: float, height: float) -> Iterator[Place]:
    """Where a name's lower left corner may lie from its point, the nearest and most usual first."""
    near = DOT + 1.5 * GAP
    while near <= FURTHEST:
        for up in (-height / 2, near - 2, -near - height + 2):
            yield from ((near, up), (-near - width, up))
        yield from ((-width / 2, near), (-width / 2, -near - height))
        near += 3


def around(axes: Axes, point: Place, reach: float) -> Bbox:
    """The square around a point, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def along(axes: Axes, line: tuple[Place, Place], step: float) -> list[Place]:
    """Points of a line, so many pixels apart."""
    (x, y), (to_x, to_y) = (axes.transData.transform(end) for end in line)
    count = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / step))
    (from_x, from_y), (last_x, last_y) = line
    shares = [at / count for at in range(count + 1)]
    return [(from_x + share * (last_x - from_x), from_y + share * (last_y - from_y)) for share in shares]


def tie(axes: Axes, point: Place, box: Bbox) -> None:
    """A thin line from a point to a name that lies further away."""
    x, y = axes.transData.transform(point)
    end = axes.transData.inverted().transform(
        (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)),
    )
    axes.plot([point[0], end[0]], [point[1], end[1]], color=INK, alpha=0.4, linewidth=0.6)
