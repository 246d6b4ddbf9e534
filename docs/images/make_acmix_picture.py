"""Draws `acmix.svg`, the README's picture of the one idea: `python docs/images/make_acmix_picture.py`.

The picture carries its own background, so that it is readable wherever it is shown; light or dark follows the reader.
"""

from __future__ import annotations

import math
from pathlib import Path

WIDTH, HEIGHT = 1000, 452
MIDDLE = 232
ATTENTION_Y, CONVOLUTION_Y = 140, 324

STYLE = """
svg { --page: #ffffff; --zone: #f4f5f2; --box: #ffffff; --ink: #191c20; --muted: #5c636d; --line: #c9ccc6;
  --attention: #2a6fdb; --convolution: #d9600c; --shared: #0b8a7a; }
@media (prefers-color-scheme: dark) { svg { --page: #14171a; --zone: #1c2024; --box: #24292e; --ink: #eceef0;
  --muted: #a9b0ba; --line: #454c55; --attention: #6ea8ff; --convolution: #ff9a55; --shared: #3fc9b5; } }
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: var(--ink); }
.title { font-size: 17px; font-weight: 650; } .body { font-size: 15px; } .small { font-size: 14px; fill: var(--muted); }
.letter { font-size: 21px; font-style: italic; font-family: Georgia, "Times New Roman", serif; }
.page { fill: var(--page); } .zone { fill: var(--zone); } .box { fill: var(--box); stroke: var(--line); }
.wire { fill: none; stroke: var(--muted); stroke-width: 1.8; stroke-linejoin: round; }
.shared { --own: var(--shared); } .attention { --own: var(--attention); } .convolution { --own: var(--convolution); }
.frame { fill: var(--box); stroke: var(--own); stroke-width: 1.8; } .own { fill: var(--own); }
.wire.own { fill: none; stroke: var(--own); }
.cell { fill: var(--own); } .hollow { fill: var(--box); stroke: var(--own); stroke-width: 1.6; }
.tip { fill: var(--muted); } .tip.own { fill: var(--own); }
""".strip()


def main() -> None:
    """Writes the picture beside this script."""
    Path(__file__).with_name("acmix.svg").write_text(picture(), encoding="utf-8")


def picture() -> str:
    """The whole picture as SVG."""
    parts = [
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="14"/>',
        *zones(),
        *entrance(),
        *projections(),
        *attention_path(),
        *convolution_path(),
        *sum_of_both(),
    ]
    about = (
        "ACmix: one set of 1 by 1 projections q, k, v feeds an attention path and a convolution path; "
        "the output is alpha times attention plus beta times convolution."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{about}">\n<style>\n{STYLE}\n</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def zones() -> list[str]:
    """The two stages as fields with their cost."""
    return [
        rect("zone", 112, 20, 200, 412, 12),
        words("title", 212, 50, "Stage I: shared", anchor="middle"),
        words("small", 212, 392, "three 1×1 convolutions", anchor="middle"),
        words("small", 212, 414, "O(C²), the costly half", anchor="middle"),
        rect("zone", 350, 20, 440, 412, 12),
        words("title", 570, 50, "Stage II: two readings of the same q, k, v", anchor="middle"),
        words("small", 570, 414, "O(C) each", anchor="middle"),
    ]


def entrance() -> list[str]:
    """The input map."""
    return [
        *grid("shared", 26, MIDDLE - 30, 4, 15, [0.5] * 16),
        words("letter", 56, MIDDLE + 56, "x", anchor="middle"),
        arrow("", [(92, MIDDLE), (140, MIDDLE)]),
    ]


def projections() -> list[str]:
    """q, k and v, joined into the wire that both paths read."""
    parts = [path("wire", [(140, 130), (140, 334)])]
    for letter, y in (("q", 130), ("k", MIDDLE), ("v", 334)):
        parts += [
            arrow("", [(140, y), (164, y)]),
            f'<g class="shared">{rect("frame", 166, y - 31, 92, 62, 9)}</g>',
            words("letter", 194, y + 7, letter, anchor="middle"),
            words("small", 232, y + 5, "1×1", anchor="middle"),
            path("wire", [(258, y), (284, y)]),
        ]
    return [
        *parts,
        path("wire", [(284, 130), (284, 334)]),
        path("wire", [(284, MIDDLE), (330, MIDDLE)]),
        arrow("attention", [(330, MIDDLE), (330, ATTENTION_Y), (366, ATTENTION_Y)]),
        arrow("convolution", [(330, MIDDLE), (330, CONVOLUTION_Y), (366, CONVOLUTION_Y)]),
    ]


def attention_path() -> list[str]:
    """A window of weights that the image itself decides."""
    # bright where a neighbour resembles the query: no symmetry, unlike a convolution's fixed kernel
    weights = [
        0.08 + 0.85 * math.exp(-((column - 1.2) ** 2 + (0.7 * row - 2.6) ** 2) / 2.2)
        for row in range(5)
        for column in range(5)
    ]
    return [
        f'<g class="attention">{rect("frame", 368, 72, 404, 136, 10)}',
        *grid("attention", 386, 97, 5, 17, weights),
        rect("hollow", 419.5, 130.5, 16, 16, 2),
        "</g>",
        words("title", 488, 112, "Attention"),
        words("body", 488, 141, "softmax(q·kᵀ / √D + bias) v"),
        words("small", 488, 168, "over a window of pixels:"),
        words("small", 488, 187, "weights follow from the image"),
    ]


def convolution_path() -> list[str]:
    """k² maps out of the 3N pieces, then each shifted its own way, and summed."""
    maps = []
    for index in range(8, -1, -1):
        maps.append(rect("hollow", 386 + 4 * index, 324 - 4 * index, 46, 46, 3))
    arrows = []
    centre_x, centre_y = 726, CONVOLUTION_Y
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            x, y = centre_x + 27 * column, centre_y + 27 * row
            arrows.append(rect("hollow", x - 11.5, y - 11.5, 23, 23, 4))
            arrows.append(shift("convolution", x, y, column, row))
    return [
        f'<g class="convolution">{rect("frame", 368, 256, 404, 136, 10)}',
        *maps,
        *arrows,
        "</g>",
        words("title", 488, 296, "Convolution"),
        words("body", 488, 325, "fc: 3N pieces → k² maps"),
        words("small", 488, 352, "shift and sum them: a"),
        words("small", 488, 371, "grouped 3×3 convolution"),
    ]


def sum_of_both() -> list[str]:
    """Two learned rates and the sum."""
    parts = []
    for style, letter, y, edge in (("attention", "α", ATTENTION_Y, -1), ("convolution", "β", CONVOLUTION_Y, 1)):
        parts += [
            path(f"{style} wire own", [(772, y), (816, y)]),
            f'<circle class="{style} frame" cx="836" cy="{y}" r="20"/>',
            words("letter", 836, y + 7, letter, anchor="middle"),
            arrow(style, [(856, y), (892, y), (892, MIDDLE + 20 * edge)]),
        ]
    return [
        *parts,
        f'<circle class="box" cx="892" cy="{MIDDLE}" r="18" stroke-width="1.8"/>',
        path("wire", [(883, MIDDLE), (901, MIDDLE)]),
        path("wire", [(892, MIDDLE - 9), (892, MIDDLE + 9)]),
        arrow("", [(910, MIDDLE), (934, MIDDLE)]),
        *output_map(),
        words("small", 892, 392, "α, β: learned,", anchor="middle"),
        words("small", 892, 414, "two numbers a block", anchor="middle"),
    ]


def output_map() -> list[str]:
    """The output: cells of both colours."""
    cells = []
    for index in range(9):
        style = "attention" if index % 2 else "convolution"
        x, y = 938 + 16 * (index % 3), MIDDLE - 24 + 16 * (index // 3)
        cells.append(f'<g class="{style}">{rect("cell", x, y, 14, 14, 2, opacity=0.75)}</g>')
    return cells


def rect(style: str, x: float, y: float, width: float, height: float, radius: float, opacity: float = 1.0) -> str:
    """A rounded rectangle."""
    faint = "" if opacity == 1.0 else f' opacity="{opacity:.2f}"'
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"{faint}/>'


def words(style: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """A line of text on its baseline."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text}</text>'


def path(style: str, points: list[tuple[float, float]]) -> str:
    """A wire through points."""
    return f'<polyline class="{style}" points="{" ".join(f"{x:g},{y:g}" for x, y in points)}"/>'


def arrow(style: str, points: list[tuple[float, float]]) -> str:
    """A wire that ends in a tip; `style` names whose colour it has, "" is neutral."""
    (x0, y0), (x1, y1) = points[-2:]
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    back = (x1 - 8 * dx, y1 - 8 * dy)
    corners = [(x1, y1), (back[0] - 4.5 * dy, back[1] + 4.5 * dx), (back[0] + 4.5 * dy, back[1] - 4.5 * dx)]
    own = " own" if style else ""
    tip = f'<polygon class="tip{own}" points="{" ".join(f"{x:g},{y:g}" for x, y in corners)}"/>'
    return f'<g class="{style}">{path(f"wire{own}", [*points[:-1], back])}{tip}</g>'


def shift(style: str, x: float, y: float, column: int, row: int) -> str:
    """A small arrow in one of nine directions; the middle map stays where it is: a dot."""
    if column == row == 0:
        return f'<circle class="{style} own" cx="{x}" cy="{y}" r="3"/>'
    length = math.hypot(column, row)
    dx, dy = 7.5 * column / length, 7.5 * row / length
    return arrow(style, [(x - dx, y - dy), (x + dx, y + dy)])


def grid(style: str, x: float, y: float, side: int, step: float, weights: list[float]) -> list[str]:
    """A square of cells, each as strong as its weight."""
    cells = [
        rect("cell", x + step * (index % side), y + step * (index // side), step - 2, step - 2, 2, opacity=weight)
        for index, weight in enumerate(weights)
    ]
    return [f'<g class="{style}">', *cells, "</g>"]


if __name__ == "__main__":
    main()
