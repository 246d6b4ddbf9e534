"""Which path the blocks lean on, over seeds: |α|, |β| and log |α/β| by block, and along training.

The paper's claim is that convolution dominates early blocks and attention late ones.

Source: ACmix, section 5.4 and its figure of the learned rates.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acmix.benchmark.record import write_table
from acmix.errors import UsageError
from acmix.layers import PathRates
from acmix.paper.grid import read_grid
from acmix.paper.runs import DONE, GRID, runs_there
from acmix.paper.statistics import Interval, interval, signed, spread
from acmix.tools.rates import Rates, rates_of, short_name
from acmix.train.files import make_place
from acmix.train.plots import ATTENTION, CONVOLUTION, INK, finish, new_figure, save, stage_starts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ("block", "|α|", "|β|", "log |α/β|", "95 % interval", "runs")
COLUMNS = ("run", "block", "epoch", "alpha", "beta")


@dataclass(frozen=True)
class Over:
    """The rates of several runs of one network.

    Args:
        names: of the runs.
        blocks: names, in the network's order.
        rates: of a run, of a block, at the end.
        histories: of a run: (epoch, the rates of every block) after each epoch; a checkpoint has one.
    """

    names: list[str]
    blocks: list[str]
    rates: list[list[PathRates]]
    histories: list[list[tuple[float, list[PathRates]]]]

    def logs(self, block: int) -> list[float]:
        """log |α/β| of a block in every run; without those of a rate of 0."""
        return [each for rates in self.rates if math.isfinite(each := log_ratio(rates[block]))]


def log_ratio(rates: PathRates) -> float:
    """log |α/β|: above 0 attention is the stronger path; NaN where a rate is 0 or not finite."""
    attention, conv = abs(rates.attention), abs(rates.conv)
    return math.log(attention) - math.log(conv) if 0 < attention < math.inf and 0 < conv < math.inf else math.nan


def runs_in(places: Sequence[Path], arm: str = "") -> list[Path]:
    """The runs and checkpoints to read: those given, and of a grid's folder the finished ones of an arm.

    Raises:
        UsageError: a grid's folder that has no such arm, or no finished run of it.
    """
    found: list[Path] = []
    for place in places:
        if not (place / GRID).is_file():
            found.append(place)
            continue
        grid = read_grid(place / GRID)
        wanted = arm or grid.baseline
        if wanted not in grid.arms:
            raise UsageError(f"{place}: grid {grid.name} has no arm {arm!r}; expected one of {', '.join(grid.arms)}")
        runs = [each for each in runs_there(grid, place) if each.arm == wanted and each.status == DONE]
        if not runs:
            raise UsageError(
                f"{place} holds no finished run of arm {wanted!r} yet; name a run's own folder to look into it"
            )
        found += [place / each.name for each in runs]
    return found


def read(places: Sequence[Path]) -> Over:
    """The rates of runs of the same network.

    Raises:
        UsageError: a place without rates, or networks of other blocks.
    """
    if len({os.path.realpath(place) for place in places}) < len(places):
        raise UsageError("a run is given twice: it would count as two seeds; name each once")
    found: list[Rates] = [rates_of(place) for place in places]
    for each in found:
        if each.absent:
            raise UsageError(f"{each.place}: {each.absent}")
    blocks = [block.name for block in found[0].blocks]
    for each in found:
        if [block.name for block in each.blocks] != blocks:
            raise UsageError(f"{each.place} has other blocks than {found[0].place}; give runs of one network")
    histories = []
    for each in found:
        by_block = each.log.rates()
        epochs = [history[0] for history in by_block[blocks[0]]]
        histories.append(
            [(epoch, [PathRates(*by_block[block][at][1:]) for block in blocks]) for at, epoch in enumerate(epochs)]
        )
    return Over(told_apart(places), blocks, [[block.now for block in each.blocks] for each in found], histories)


def told_apart(places: Sequence[Path]) -> list[str]:
    """Names of runs: the last parts of their places, as many as tell them apart; not this machine's folders."""
    parts = [Path(os.path.realpath(place)).parts for place in places]
    names: list[str] = []
    for count in range(2, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def table(over: Over) -> list[tuple[str, ...]]:
    """A row a block, of the columns of `HEAD`: means and deviations over the runs."""
    rows = []
    for at, block in enumerate(over.blocks):
        alphas, betas = ([abs(rates[at][side]) for rates in over.rates] for side in (0, 1))
        logs = over.logs(at)
        found = interval(logs)
        rows.append(
            (
                short_name(block) or "(the layer)",
                *(around(values) for values in (alphas, betas)),
                signed(found.mean, 3),
                "" if math.isnan(found.low) else f"{signed(found.low, 3)} to {signed(found.high, 3)}",
                str(len(logs)),
            )
        )
    return rows


def around(values: Sequence[float]) -> str:
    """Mean ± deviation of rates."""
    found = spread(values)
    # both are at least 0
    mean, reach = (signed(each, 3).lstrip("+") for each in (found.mean, found.deviation))
    return mean + ("" if math.isnan(found.deviation) else f" ± {reach}")


def halves(rates: Sequence[PathRates]) -> tuple[float, float]:
    """The mean log |α/β| of the first and of the second half of the blocks."""
    logs = [log_ratio(each) for each in rates]
    half = len(logs) // 2
    early, late = ([each for each in part if math.isfinite(each)] for part in (logs[:half], logs[half:]))
    return spread(early).mean, spread(late).mean


@dataclass(frozen=True)
class Depth:
    """What the halves of a network say of the claim that convolution dominates early and attention late.

    Args:
        early, late: log |α/β| of the first and the second half of the blocks, over the runs.
        rise: the second less the first.
    """

    early: Interval
    late: Interval
    rise: Interval

    @property
    def holds(self) -> bool | None:
        """Whether the claim does; None where the runs do not tell."""
        if self.early.high < 0 < self.late.low:
            return True
        if self.early.low > 0 or self.late.high < 0 or self.rise.high < 0:
            return False
        return None


def depth(over: Over) -> Depth:
    """Both halves of the blocks, over the runs."""
    parts = [halves(rates) for rates in over.rates]
    early, late = (interval([part[side] for part in parts]) for side in (0, 1))
    return Depth(early, late, interval([part[1] - part[0] for part in parts]))


def verdict(over: Over) -> list[str]:
    """Whether convolution dominates the first half of the blocks and attention the second, in sentences."""
    if len(over.blocks) < 2:
        return ["One block has no early and no late half."]
    found = depth(over)
    if math.isnan(found.rise.mean):
        return ["Rates of 0, or that are not finite, leave no ratio to compare."]
    said = [
        f"log |α/β|: {found.early} in the first half, {found.late} in the second; the second less the first "
        f"{found.rise}. Above 0, attention is the stronger path."
    ]
    if math.isnan(found.rise.low):
        return [*said, "One run tells no seed from another: give several."]
    if found.holds:
        return [*said, "Claim 6 holds here: convolution dominates early, attention late."]
    low, high = found.rise.low, found.rise.high
    grows = (
        "grows with depth" if low > 0 else "falls with depth" if high < 0 else "is not told apart between the halves"
    )
    sides = " and ".join(
        f"{leads(each)} in the {half} half" for half, each in (("first", found.early), ("second", found.late))
    )
    begin = "These runs do not decide claim 6" if found.holds is None else "Claim 6 does not hold here"
    return [*said, f"{begin}: attention's part {grows}; {sides}."]


def leads(found: Interval) -> str:
    """Which path an interval of log |α/β| names."""
    return "convolution leads" if found.high < 0 else "attention leads" if found.low > 0 else "neither is told to lead"


def write(over: Over, file: Path) -> None:
    """Writes the rates of every run, block and epoch.

    Raises:
        UsageError: the file cannot be written.
    """
    rows = [
        {
            "run": name,
            "block": block,
            "epoch": f"{epoch:g}",
            "alpha": f"{rates.attention:.6f}",
            "beta": f"{rates.conv:.6f}",
        }
        for name, history in zip(over.names, over.histories, strict=True)
        for epoch, every in history
        for block, rates in zip(over.blocks, every, strict=True)
    ]
    write_table(file, COLUMNS, rows)


def read_table(file: Path) -> Over:
    """What `write` wrote.

    Raises:
        UsageError: it is none of ours.
    """
    histories: dict[str, dict[float, dict[str, PathRates]]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                rates = PathRates(float(row["alpha"]), float(row["beta"]))
                histories.setdefault(row["run"], {}).setdefault(float(row["epoch"]), {})[row["block"]] = rates
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file} is no table of rates, as `acmix paper paths --csv` writes it ({error})") from None
    if not histories:
        raise UsageError(f"{file} holds no rates; `acmix paper paths --csv` writes them")
    runs = [[(epoch, of_epoch) for epoch, of_epoch in history.items()] for history in histories.values()]
    blocks = [*runs[0][0][1]]
    if any([*of_epoch] != blocks for run in runs for _, of_epoch in run):
        raise UsageError(f"{file} holds rates of several networks; give a table of one")
    found = [[(epoch, [*of_epoch.values()]) for epoch, of_epoch in run] for run in runs]
    return Over([*histories], blocks, [run[-1][1] for run in found], found)


def draw(over: Over, file: Path) -> Path:
    """Draws rates by block with bands over the runs, their ratio, and the ratio's course; as PNG.

    Raises:
        UsageError: the file cannot be written.
    """
    make_place(file)
    has_course = min(map(len, over.histories)) > 1
    figure = new_figure(width=13.5 if has_course else 9.5)
    panels = figure.subplots(1, 3 if has_course else 2)
    order = list(range(1, len(over.blocks) + 1))
    for side, colour, label in ((0, ATTENTION, "|α|, attention"), (1, CONVOLUTION, "|β|, convolution")):
        columns = [[abs(rates[at][side]) for rates in over.rates] for at in range(len(order))]
        band(panels[0], order, columns, colour, label)
    band(panels[1], order, [over.logs(at) for at in range(len(order))], INK, "")
    panels[1].axhline(0.0, color=INK, linewidth=1, linestyle=":")
    starts = stage_starts(over.blocks)
    for axes in panels[:2]:
        for start in starts:
            axes.axvline(start + 0.5, color=INK, alpha=0.4, linewidth=1, linestyle=":")
    count = f"{len(over.names)} run{'s' * (len(over.names) > 1)}, mean ± deviation"
    x_label = "block" + (" (dotted: a new stage)" if starts else "")
    finish(panels[0], f"Rates by block ({count})", x_label=x_label)
    finish(panels[1], "log |α/β|: above 0, attention is stronger", x_label=x_label, legend=False)
    if has_course:
        draw_course(panels[2], over)
    return save(figure, file)


def draw_course(axes: Axes, over: Over) -> None:
    """log |α/β| of both halves of the network, at the epochs that all runs have."""
    runs = [dict(history) for history in over.histories]
    epochs = [epoch for epoch, _ in over.histories[0] if all(epoch in run for run in runs)]
    for side, colour, label in ((0, CONVOLUTION, "first half of the blocks"), (1, ATTENTION, "second half")):
        columns = [[halves(run[epoch])[side] for run in runs] for epoch in epochs]
        band(axes, epochs, columns, colour, label)
    axes.axhline(0.0, color=INK, linewidth=1, linestyle=":")
    finish(axes, "log |α/β| along training", x_label="epoch")


def band(axes: Axes, xs: Sequence[float], columns: Sequence[Sequence[float]], colour: str, label: str) -> None:
    """A line through the means, and a band of one deviation to each side."""
    found = [spread(column) for column in columns]
    means = [each.mean for each in found]
    reach = [0.0 if math.isnan(each.deviation) else each.deviation for each in found]
    axes.plot(xs, means, color=colour, marker="o", markersize=3, label=label or None)
    low, high = ([mean + sign * each for mean, each in zip(means, reach, strict=True)] for sign in (-1, 1))
    axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
