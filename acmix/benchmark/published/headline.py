"""README.md's table of speed, and what the layer costs, both of one machine's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from acmix.benchmark.published.cells import ratio_of, table, three
from acmix.benchmark.published.measured import FULL, PLAIN, RESNET, SHORT, STEP, SWIN, Found, Row, is_right, measured_on

CONVOLUTION = "3x3 convolution"
# what `conv_path=False` takes out of a model
ADDED = {SWIN: "the convolution path", RESNET: "the ACmix layers"}
# what the file of `acmix2d.py` calls a layer: what the one of `speed.py` does, and what the table does
LAYERS = {
    "64 channels, 80x80": ("ACmix2d(64, 64)", "`ACmix2d(64, 64)` at 80×80, one image"),
    "256 channels, 20x20": ("ACmix2d(256, 256)", "`ACmix2d(256, 256)` at 20×20, one image"),
}


@dataclass(frozen=True)
class Line:
    """A row of the headline.

    Args:
        what: the comparison in words.
        cells: of its row in the file.
        over: the cells of the row that its speed-up is divided by, where it is the quotient of two.
    """

    what: str
    cells: Row
    over: Row | None = None


def comparisons(name: str, phase: str) -> list[Line]:
    """A model over timm's of that name, and the two parts of that: our plain model's gain and the path's cost."""
    ours = dict(subject=name, phase=phase, candidate="acmix", **FULL)
    timm, plain = {**ours, "peer": "timm"}, {**ours, "peer": "plain"}
    short, theirs = SHORT[name], PLAIN[name]
    return [
        Line(f"**{short} over timm's {theirs}, {STEP[phase]}**", timm),
        Line(f"our {theirs} without {ADDED[name]} over timm's", timm, over=plain),
        Line(f"{short} over ours without {ADDED[name]}", plain),
    ]


def lines() -> list[Line]:
    """All rows, those of Swin first."""
    return [
        *(line for name in PLAIN for phase in STEP for line in comparisons(name, phase)),
        Line(
            f"{SHORT[RESNET]} over the released form of its layers, training step", dict(line="resnet_unfold", **FULL)
        ),
        Line("`ACmix2d(64, 64)` at 80×80, one image, over a 3×3 convolution", layer_cells(peer=CONVOLUTION)),
        Line("`ACmix2d(64, 64)` at 80×80, one image, over its released form", layer_cells(peer="released form")),
    ]


def layer_cells(layer: str = "ACmix2d(64, 64)", **cells: str) -> Row:
    """What names the row of a layer."""
    return dict(line="layer", subject=layer, **cells)


def headline(found: Found) -> list[str]:
    """Speed-ups of whole models and of the layer, measured on one machine, which stands below; full cells alone."""
    known = of_one_machine(found)
    rows = {dtype: [cell(line, known, dtype) for line in lines()] for dtype in ("fp32", "bf16")}
    first = rows["fp32"]
    shown = [number for number, each in enumerate(first) if each]
    # a column in which a row of the first has nothing is left out
    columns = [dtype for dtype, cells in rows.items() if shown and all(cells[number] for number in shown)]
    if not columns:
        return []
    body = [(lines()[number].what, *[rows[dtype][number] for dtype in columns]) for number in shown]
    return [*table(("speed-up, 8 images", *columns), body), "", measured_on(known.rows)]


def cell(line: Line, found: Found, dtype: str) -> str:
    """The speed-up of a row, measured or the quotient of two; empty where one is missing."""
    row = found.one(dtype=dtype, **line.cells)
    if row is None or line.over is None:
        return "" if row is None else ratio_of(row)
    over = found.one(dtype=dtype, **line.over)
    if not is_right(row) or not is_right(over):
        return ""
    return three(float(row["speed_up"]) / float(over["speed_up"]))


def of_one_machine(found: Found) -> Found:
    """The rows of the headline that one machine measured: the one that measured most, and of two the latest."""
    wanted = [line.cells for line in lines()]
    rows = [row for row in found.rows if any(row in list(found.all(**cells)) for cells in wanted)]
    machines: dict[str, list[Row]] = {}
    for row in rows:
        machines.setdefault(row["machine"], []).append(row)
    best = max(machines.values(), key=lambda each: (len(each), max(row["date"] for row in each)), default=[])
    return replace(found, rows=best)


def costs(found: Found) -> list[str]:
    """What an ACmix2d costs beside a 3×3 convolution; every ratio is the convolution's figure ÷ ACmix's."""
    body, times = [], []
    for row in found.costs:
        ours, theirs = float(row["acmix"]), float(row["convolution"])
        timed_as, shown = LAYERS.get(row["layer"], ("", row["layer"]))
        body.append((shown, row["figure"], three(ours), three(theirs), three(theirs / ours)))
        timed = found.one(**layer_cells(timed_as, peer=CONVOLUTION))
        if is_right(timed) and timed not in times:
            times.append(timed)
            both = three(float(timed["time_ms"])), three(float(timed["peer_time_ms"]))
            body.append((shown, "time of an inference, ms", *both, ratio_of(timed)))
    if not body:
        return []
    names = ("layer or network", "figure (less is better)", "ACmix2d", "3×3 convolution", "convolution ÷ ACmix2d")
    return [*table(names, body), "", *where_from(times, found.costs)]


def where_from(times: Sequence[Row], counts: Sequence[Row]) -> list[str]:
    """The machines of the two files that the costs come from."""
    said = [f"Times: {measured_on(times)}"] if times else []
    return [" ".join([*said, f"Memory and multiply-adds: {measured_on(counts)}"])]
