"""What the runs of a grid say: every arm's mean and deviation, its difference from the baseline, and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acmix.paper.grid import Grid
from acmix.paper.runs import FAILED, Run
from acmix.paper.statistics import Paired, Spread, paired, signed, spread
from acmix.train.files import make_place
from acmix.train.plots import ATTENTION, INK, finish, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ("arm", "top-1 %: mean ± deviation (runs)", "difference, points", "95 % interval", "effect d", "p", "seeds")


@dataclass(frozen=True)
class Arm:
    """What came of an arm.

    Args:
        name: its.
        values: figure of each seed that ended.
        difference: from the baseline, seed by seed; None of the baseline itself.
        failed: seeds whose run failed.
    """

    name: str
    values: dict[int, float]
    difference: Paired | None
    failed: tuple[int, ...] = ()

    @property
    def spread(self) -> Spread:
        """Mean and deviation over the seeds."""
        return spread([*self.values.values()])


def compared(grid: Grid, runs: Iterable[Run]) -> list[Arm]:
    """Every arm of a grid, in its order.

    Raises:
        UsageError: SciPy is missing.
    """
    runs = list(runs)
    values = {
        arm: {each.seed: float(each.value) for each in runs if each.arm == arm and each.value} for arm in grid.arms
    }
    found = []
    for arm in grid.arms:
        both = [seed for seed in grid.seeds if seed in values[arm] and seed in values[grid.baseline]]
        difference = None
        if arm != grid.baseline:
            difference = paired([values[arm][seed] for seed in both], [values[grid.baseline][seed] for seed in both])
        failed = tuple(each.seed for each in runs if each.arm == arm and each.status == FAILED)
        found.append(Arm(arm, values[arm], difference, failed))
    return found


def table(arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """A row an arm, of the columns of `HEAD`."""
    rows = []
    for arm in arms:
        told = arm.difference
        cells: tuple[str, ...] = ("baseline", "", "", "", "")
        if told is not None:
            interval = "" if math.isnan(told.low) else f"{signed(told.low)} to {signed(told.high)}"
            numbers = (
                "" if math.isnan(each) else form(each) for form, each in ((signed, told.effect), (in_words, told.p))
            )
            cells = ("" if math.isnan(told.mean) else signed(told.mean), interval, *numbers, str(told.count))
        rows.append((arm.name, str(arm.spread) if arm.values else "no run ended", *cells))
    return rows


def in_words(p: float) -> str:
    """A probability, which is never printed as none."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict(arm: Arm, baseline: str) -> str:
    """One sentence on an arm."""
    told = arm.difference
    failed = f" {len(arm.failed)} of its runs failed." if arm.failed else ""
    if told is None:
        return f"{arm.name} is what the others are compared with.{failed}"
    if told.count > 1 and told.is_same:
        return f"{arm.name} gave the same results as {baseline} at every seed.{failed}"
    if told.count < 2 or math.isnan(told.low):
        return f"{arm.name}: too few seeds to tell it from {baseline}.{failed}"
    if not told.is_told_apart:
        widest = max(abs(told.low), abs(told.high))
        apart = f"{arm.name} may be up to {signed(widest)[1:]} points away"
        return f"{arm.name} and {baseline} are not told apart; {apart}.{failed}"
    way = "better" if told.mean > 0 else "worse"
    return f"{arm.name} is {way} than {baseline}, by {signed(abs(told.mean))[1:]} points.{failed}"


def draw(grid: Grid, arms: Sequence[Arm], file: Path) -> Path:
    """Draws every run and the means on the left, the differences with their intervals on the right, as PNG.

    Raises:
        UsageError: the file cannot be written.
    """
    make_place(file)
    figure = new_figure(width=11, height=1.6 + 0.5 * len(arms))
    left, right = figure.subplots(1, 2, sharey=True)
    draw_runs(left, arms)
    draw_differences(right, arms, grid.baseline)
    left.set_yticks(range(len(arms)), [arm.name for arm in arms])
    # the first arm on top, and half a row around
    left.set_ylim(len(arms) - 0.5, -0.5)
    return save(figure, file)


def draw_runs(axes: Axes, arms: Sequence[Arm]) -> None:
    """A dot a run, and a stroke at the mean."""
    for row, arm in enumerate(arms):
        values = [*arm.values.values()]
        axes.plot(values, [row] * len(values), "o", color=ATTENTION, alpha=0.6, label="a run" if row == 0 else None)
        if values:
            axes.plot(
                [arm.spread.mean], [row], "|", color=INK, markersize=18, markeredgewidth=2,
                label="mean" if row == 0 else None,
            )  # fmt: skip
    finish(axes, "Every run", x_label="validation top-1, %", legend=False)
    # beside the title, where no run lies
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9, labelcolor=INK,
        borderaxespad=0.0, columnspacing=1.5,
    )  # fmt: skip


def draw_differences(axes: Axes, arms: Sequence[Arm], baseline: str) -> None:
    """The mean difference from the baseline and its 95 % interval."""
    axes.axvline(0.0, color=INK, linewidth=1, linestyle=":")
    for row, arm in enumerate(arms):
        told = arm.difference
        if told is not None and not math.isnan(told.mean):
            reach = [[told.mean - told.low], [told.high - told.mean]] if not math.isnan(told.low) else None
            axes.errorbar([told.mean], [row], xerr=reach, fmt="o", color=INK, capsize=4)
    finish(axes, f"Difference from {baseline}, 95 % interval", x_label="points", legend=False)
