"""Draws the pictures of `docs/concepts.md`: `python docs/images/make_concepts.py`.

Like `acmix.svg`, each carries its own background, and light or dark follows the reader.
"""

from __future__ import annotations

from pathlib import Path

from make_acmix_picture import STYLE, arrow, grid, path, rect, shift, words

# the four windows of a map
WINDOWS = ("attention", "convolution", "shared", "fourth")
MORE_STYLE = """
svg { --fourth: #8250c4; } @media (prefers-color-scheme: dark) { svg { --fourth: #b79cf5; } }
.fourth { --own: var(--fourth); } .tiny { font-size: 12px; fill: var(--muted); }
.on { font-size: 13px; font-weight: 600; } .empty { fill: none; stroke: var(--line); stroke-dasharray: 3 3; }
.edge { fill: none; stroke: var(--ink); stroke-width: 2.4; }
.seam { stroke: var(--ink); stroke-width: 2.4; stroke-dasharray: 6 4; }
""".strip()


def main() -> None:
    """Writes the pictures beside this script."""
    for name, picture in pictures().items():
        Path(__file__).with_name(name).write_text(picture, encoding="utf-8")


def pictures() -> dict[str, str]:
    """Every picture as SVG, by the name of its file."""
    return {
        "stages.svg": stages(),
        "shift.svg": shifts(),
        "windows.svg": windows(),
        "local.svg": local(),
        "channel_order.svg": channel_order(),
    }


def drawn(height: int, about: str, parts: list[str], width: int = 760) -> str:
    """A picture with its background and what it shows in words."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{about}">\n<style>\n{STYLE}\n{MORE_STYLE}\n</style>\n'
        f'<rect class="page" width="{width}" height="{height}" rx="14"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def stages() -> str:
    """A convolution and an attention, each as projections of single pixels and a gathering of neighbours."""
    parts = [
        rect("zone", 112, 16, 250, 328, 12),
        words("title", 237, 44, "Stage I: each pixel alone", anchor="middle"),
        words("small", 237, 328, "O(C²) multiply-adds a pixel", anchor="middle"),
        rect("zone", 392, 16, 270, 328, 12),
        words("title", 527, 44, "Stage II: neighbours meet", anchor="middle"),
        words("small", 527, 328, "O(C) multiply-adds a pixel", anchor="middle"),
    ]
    for style, y, first, second, name, formula in (
        (
            "convolution",
            122,
            "k² 1×1 convolutions",
            "shift each map, then sum",
            "Convolution",
            "Σ over k² shifted maps",
        ),
        ("attention", 238, "three 1×1 convolutions", "compare q with k, mix v", "Attention", "softmax(q·kᵀ / √D) v"),
    ):
        parts += [
            *grid("shared", 28, y - 22, 3, 15, [0.5] * 9),
            words("letter", 50, y + 44, "x", anchor="middle"),
            arrow("", [(82, y), (126, y)]),
            f'<g class="{style}">{rect("frame", 128, y - 46, 218, 92, 10)}</g>',
            words("body", 237, y - 20, first, anchor="middle"),
            *maps_of(style, y),
            arrow(style, [(346, y), (404, y)]),
            f'<g class="{style}">{rect("frame", 406, y - 46, 242, 92, 10)}</g>',
            words("title", 527, y - 20, name, anchor="middle"),
            words("body", 527, y + 8, formula, anchor="middle"),
            words("small", 527, y + 32, second, anchor="middle"),
            arrow(style, [(648, y), (690, y)]),
            *grid(style, 696, y - 22, 3, 15, [0.75] * 9),
        ]
    return drawn(360, "A convolution and self-attention both begin with 1 by 1 convolutions of single pixels.", parts)


def maps_of(style: str, y: int) -> list[str]:
    """Nine maps of a convolution, or q, k and v of an attention."""
    if style == "convolution":
        return [
            f'<g class="{style}">',
            *(rect("hollow", 150 + 20 * index, y - 2, 16, 30, 2) for index in range(9)),
            "</g>",
        ]
    parts = []
    for index, letter in enumerate("qkv"):
        parts.append(f'<g class="{style}">{rect("hollow", 165 + 52 * index, y - 6, 40, 38, 4)}</g>')
        parts.append(words("letter", 185 + 52 * index, y + 19, letter, anchor="middle"))
    return parts


def shifts() -> str:
    """The kernels that a convolution path starts with, and what two of them do to a map."""
    parts = [
        words("title", 146, 40, "S at the start: one tap a map", anchor="middle"),
        words("small", 146, 318, "t = 0 … 8, the tap at (t // 3, t % 3)", anchor="middle"),
    ]
    for t in range(9):
        x, y = 42 + 76 * (t % 3), 62 + 80 * (t // 3)
        parts += [*cells(x, y, 3, 17, {divmod(t, 3): ("convolution", 0.95)}), words("tiny", x + 56, y + 30, f"{t}")]
    for t, y in ((0, 62), (5, 196)):
        row, column = divmod(t, 3)
        before, after = {}, {}
        for dy, dx, weight in ((1, 1, 0.95), (1, 2, 0.55), (2, 1, 0.3)):
            before[dy, dx] = ("convolution", weight)
            after[dy + 1 - row, dx + 1 - column] = ("convolution", weight)
        border = [(r, c) for r in range(4) for c in range(4) if not (0 <= r + row - 1 < 4 and 0 <= c + column - 1 < 4)]
        parts += [
            words("letter", 318, y + 54, f"f<tspan font-size='14' dy='4'>{t}</tspan>", anchor="middle"),
            *cells(342, y, 4, 24, before),
            arrow("convolution", [(452, y + 47), (520, y + 47)]),
            words("small", 485, y + 34, f"⋆ S[:, {t}]", anchor="middle"),
            *cells(536, y, 4, 24, after, border),
            shift("convolution", 692, y + 40, 1 - column, 1 - row),
            words("tiny", 692, y + 72, "content moves", anchor="middle"),
        ]
    parts += [words("small", 560, 318, "0: zero padding enters at the border", anchor="middle")]
    return drawn(
        340, "Nine one-hot kernels shift nine maps, each in its own direction; the shifted maps are summed.", parts
    )


Marks = dict[tuple[int, int], tuple[str, float]]


def cells(x: float, y: float, side: int, step: float, marks: Marks, zeros: list[tuple[int, int]] = []) -> list[str]:  # noqa: B006
    """A map of side × side pixels, some of them marked, some of them zero."""
    parts = []
    for row in range(side):
        for column in range(side):
            left, top = x + step * column, y + step * row
            parts.append(rect("box", left, top, step - 2, step - 2, 2))
            if (row, column) in marks:
                style, weight = marks[row, column]
                parts.append(f'<g class="{style}">{rect("cell", left, top, step - 2, step - 2, 2, weight)}</g>')
            if (row, column) in zeros:
                parts.append(words("tiny", left + step / 2 - 1, top + step / 2 + 3, "0", anchor="middle"))
    return parts


def windows() -> str:
    """Windows of a map of 8×8 pixels: without a shift, with one, and the same on the rolled map."""
    side, window, by, step = 8, 4, 2, 27
    parts = []
    titles = ("Without shift", "Shift 2, on the map", "Shift 2, rolled by −2")
    for panel, (x, title) in enumerate(zip((20, 272, 524), titles, strict=True)):
        marks: Marks = {}
        for row in range(side):
            for column in range(side):
                at = (row, column) if panel != 1 else ((row - by) % side, (column - by) % side)
                marks[row, column] = (WINDOWS[at[0] // window * 2 + at[1] // window], 0.55)
        parts += [words("title", x + 107, 40, title, anchor="middle"), *cells(x, 58, side, step, marks)]
    left, top, end = 524, 58, 58 + step * side
    seam = 6 * step - 1
    parts += [
        path("seam", [(left + seam, top - 6), (left + seam, end + 4)]),
        path("seam", [(left - 6, top + seam), (left + step * side + 4, top + seam)]),
        # the 3×3 neighbourhood of one pixel beside the seam, and of one at the rolled border
        rect("edge", left + 4 * step - 1, top + step - 1, 3 * step, 3 * step, 4),
        f'<circle class="tip" cx="{left + 5.5 * step - 1}" cy="{top + 2.5 * step - 1}" r="5"/>',
        words("small", 127, 300, "attention: 4 windows", anchor="middle"),
        words("small", 127, 320, "of 4×4 pixels", anchor="middle"),
        words("small", 379, 300, "attention: 9 parts; a part", anchor="middle"),
        words("small", 379, 320, "never sees another", anchor="middle"),
        words("small", 631, 300, "dashed: seam, masked in attention", anchor="middle"),
        words("small", 631, 320, "square: 3×3 taps cross it", anchor="middle"),
    ]
    about = "Windows without a shift, with a shift, and on the rolled map, where a dashed seam parts former borders."
    return drawn(340, about, parts)


def local() -> str:
    """The neighbourhood of a pixel inside the map, and of one in a corner, which is mirrored."""
    step, top = 30, 62
    inside: Marks = {(row, column): ("attention", 0.35) for row in range(2, 7) for column in range(1, 6)}
    inside[4, 3] = ("convolution", 0.95)
    parts = [
        words("title", 188, 38, "Inside: K×K pixels around i", anchor="middle"),
        *cells(53, top, 9, step, inside),
        words("on", 53 + 3.5 * step - 1, top + 4.5 * step + 4, "i", anchor="middle"),
        words("title", 574, 38, "At the border: mirrored", anchor="middle"),
    ]
    left, above = 470, top + 2 * step
    for row in range(-2, 7):
        for column in range(-2, 6):
            x, y = left + step * column, above + step * row
            near, outside = row <= 2 and -1 <= column <= 3, row < 0 or column < 0
            if outside and near:
                parts.append(rect("empty", x, y, step - 2, step - 2, 2))
            if not outside:
                parts.append(rect("box", x, y, step - 2, step - 2, 2))
            if near:
                style, weight = (
                    ("convolution", 0.95) if (row, column) == (0, 1) else ("attention", 0.15 if outside else 0.35)
                )
                parts.append(f'<g class="{style}">{rect("cell", x, y, step - 2, step - 2, 2, weight)}</g>')
                text = "i" if (row, column) == (0, 1) else f"{abs(row)},{abs(column)}"
                parts.append(
                    words("on" if text == "i" else "tiny", x + step / 2 - 1, y + step / 2 + 4, text, anchor="middle")
                )
    parts += [path("edge", [(left - 3, above + 7 * step), (left - 3, above - 3), (left + 6 * step, above - 3)])]
    parts += [
        words("small", 188, 360, "weights: softmax over j of q_i · (k_j − p_j) / √D", anchor="middle"),
        words("small", 574, 360, "numbers: row, column that is read", anchor="middle"),
    ]
    return drawn(384, "A pixel attends to the pixels around it; beyond the border, the map is mirrored.", parts)


def channel_order() -> str:
    """Which head and channel meets which when the two paths are added, for two heads of three channels."""
    heads, channels, step, left = 2, 3, 92, 176
    parts = [words("small", left + 41 + step * index, 40, f"channel {index}", anchor="middle") for index in range(6)]
    rows = (
        ("attention", 56, [divmod(index, channels) for index in range(6)], "Attention", "n·D + d"),
        ("convolution", 150, [divmod(index, heads)[::-1] for index in range(6)], "Convolution", "d·N + n"),
    )
    for style, y, order, name, formula in rows:
        parts += [words("title", 24, y + 24, name), words("small", 24, y + 46, formula)]
        for index, (head, channel) in enumerate(order):
            x = left + step * index
            parts.append(f'<g class="{style}">{rect("cell", x, y, step - 10, 56, 8, (0.3, 0.7)[head])}</g>')
            parts.append(words("on", x + 41, y + 25, f"n = {head}", anchor="middle"))
            parts.append(words("on", x + 41, y + 44, f"d = {channel}", anchor="middle"))
    parts += [words("title", 24, 268, "Output"), words("small", 24, 290, "α·… + β·…")]
    for index in range(6):
        x = left + step * index
        parts += [
            words("title", x + 41, 137, "+", anchor="middle"),
            arrow("", [(x + 41, 208), (x + 41, 240)]),
            f'<g class="attention">{rect("cell", x, 244, 41, 56, 8, 0.5)}</g>',
            f'<g class="convolution">{rect("cell", x + 41, 244, 41, 56, 8, 0.5)}</g>',
        ]
    about = "Attention puts head after head, the convolution path alternates; they are added number by number."
    return drawn(324, about, parts)


if __name__ == "__main__":
    main()
