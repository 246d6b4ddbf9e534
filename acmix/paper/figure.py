"""Accuracy against multiply-adds: the paper's figures, our own runs on ImageNet, and the arms of our ablations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from acmix import config as configuration
from acmix.config import Config
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.models.count import cost_of
from acmix.paper.grid import read_grid, shipped
from acmix.paper.labels import write_names
from acmix.paper.runs import read_rows
from acmix.paper.statistics import spread
from acmix.tools.paper import PUBLISHED, in_order
from acmix.train.files import make_place
from acmix.train.log import read_summary
from acmix.train.plots import ATTENTION, CONVOLUTION, INK, TRAINING, VALIDATION, finish, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = 1000
COLOURS = (ATTENTION, CONVOLUTION, INK, VALIDATION, "#7a56d0", TRAINING)


@dataclass(frozen=True)
class Point:
    """A network's cost and accuracy.

    Args:
        group: "published", "ours", or a grid.
        name: of the network or the arm.
        gmacs: 10⁹ multiply-adds of an image.
        top1: percent.
        deviation: of top1 over seeds; 0 where there is one figure.
        plain: published: the same of the network without ACmix.
    """

    group: str
    name: str
    gmacs: float
    top1: float
    deviation: float = 0.0
    plain: tuple[float, float] | None = None


def published() -> list[Point]:
    """The networks of which the paper prints multiply-adds and accuracy."""
    found = []
    for name in in_order([*PUBLISHED]):
        each = PUBLISHED[name]
        if each.gmacs is not None and each.top1 is not None:
            plain = None if each.plain_gmacs is None or each.plain_top1 is None else (each.plain_gmacs, each.plain_top1)
            found.append(Point("published", name, each.gmacs, each.top1, plain=plain))
    return found


def ours(runs: Sequence[Path]) -> list[Point]:
    """Our runs on ImageNet, with counted multiply-adds.

    Raises:
        UsageError: no run, one that has not ended, or one on other data.
    """
    found = []
    for run in runs:
        summary = read_summary(run / "summary.json")
        top1 = summary.get("last_top1")
        if not isinstance(top1, (int, float)) or summary.get("ended") != "epochs":
            raise UsageError(f"{run} holds no finished run with a top-1; give the output folder of `acmix train`")
        settings = configuration.load(run / "config.yaml")
        if settings.model.num_classes != CLASSES:
            raise UsageError(f"{run} knows {settings.model.num_classes} classes; ImageNet-1k has {CLASSES}")
        found.append(Point("ours", settings.model.name, gmacs_of(settings), float(top1)))
    return found


def of_ablations(table: Path | None) -> list[Point]:
    """The arms of shipped grids in a table of runs, with counted multiply-adds.

    Raises:
        UsageError: no table of runs.
    """
    if table is None:
        return []
    if not table.is_file():
        raise UsageError(f"there is no table {table}; `acmix paper ablation --csv` writes one")
    rows = [row for row in read_rows(table) if row["value"] and row["grid"] in shipped()]
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["grid"], row["arm"]), []).append(float(row["value"]))
    found = []
    for (name, arm), of_arm in values.items():
        grid = read_grid(name)
        if arm in grid.arms:
            over = spread(of_arm)
            reach = over.deviation if over.count > 1 else 0.0
            found.append(Point(name, arm, gmacs_of(grid.configuration(arm, 0, "data")), over.mean, reach))
    return found


def left_out(table: Path | None) -> Iterator[str]:
    """A line for what a table of runs holds and the figure does not.

    Raises:
        UsageError: as `of_ablations`.
    """
    if table is None:
        return
    rows, known = read_rows(table), shipped()
    others = dict.fromkeys(
        f"{row['grid']}: {row['arm']}"
        for row in rows
        if row["grid"] not in known or row["arm"] not in read_grid(row["grid"]).arms
    )
    if others:
        yield (
            f"not drawn of {table}: {', '.join(others)}; the figure has the arms of the grids that "
            "`acmix paper ablation --list` names, as a table alone does not tell multiply-adds"
        )
    elif not any(row["value"] for row in rows):
        yield f"not drawn of {table}: anything; it holds no run that ended"


def gmacs_of(settings: Config) -> float:
    """10⁹ multiply-adds of an image, counted."""
    return counted(settings.model_dump_json())


@cache
def counted(settings: str) -> float:
    """The same of a configuration as text."""
    config = Config.model_validate_json(settings)
    with torch.device("meta"):
        model = build_model(config)
    return cost_of(model, config.data.img_size, config.model.in_chans).gmacs


def points(runs: Sequence[Path], ablations: Path | None) -> Iterator[str]:
    """A line for each point, as figures, and for what is no point."""
    trained = ours(runs)
    for point in [*published(), *trained, *of_ablations(ablations)]:
        reach = f" ± {point.deviation:.2f}" if point.deviation else ""
        beside = f"; plain: {point.plain[1]:.1f} % at {point.plain[0]:g}" if point.plain else ""
        form = ".1f" if point.group == "published" else ".2f"
        cost = f"{point.gmacs:.3g}·10⁹ multiply-adds"
        yield f"{point.group}: {point.name}: {point.top1:{form}}{reach} % at {cost}{beside}"
    yield from left_out(ablations)
    if not trained:
        yield "ours on ImageNet-1k: not trained"


def draw(runs: Sequence[Path], ablations: Path | None, file: Path) -> Path:
    """Draws ImageNet's accuracies, and those of ablations beside them where there are any; as PNG.

    Raises:
        UsageError: as `ours` and `of_ablations`, or the file cannot be written.
    """
    make_place(file)
    arms = of_ablations(ablations)
    figure = new_figure(width=13.5 if arms else 7.5, height=5.2)
    panels = figure.subplots(1, 2 if arms else 1, squeeze=False)[0]
    draw_imagenet(panels[0], ours(runs))
    if arms:
        draw_arms(panels[1], arms)
    return save(figure, file)


def draw_imagenet(axes: Axes, trained: Sequence[Point]) -> None:
    """An arrow from each plain network to its ACmix form, and our own runs."""
    names: list[tuple[str, tuple[float, float]]] = []
    arrows = []
    for at, point in enumerate(published()):
        place = (point.gmacs, point.top1)
        if point.plain is not None:
            axes.annotate(
                "", (point.gmacs, point.top1), point.plain,
                arrowprops={"arrowstyle": "-|>", "color": CONVOLUTION, "shrinkA": 3, "shrinkB": 3},
            )  # fmt: skip
            axes.plot(*point.plain, "o", color=TRAINING, label=None if at else "plain, published")
            arrows.append((point.plain, place))
        axes.plot(point.gmacs, point.top1, "o", color=CONVOLUTION, label=None if at else "ACmix, published")
        names.append((point.name.removeprefix("acmix_").removesuffix("_patch4_window7_224"), place))
    for at, point in enumerate(trained):
        axes.plot(point.gmacs, point.top1, "*", markersize=12, color=ATTENTION, label=None if at else "ACmix, ours")
    told = "" if trained else " (ours: not trained)"
    finish(axes, f"ImageNet-1k, top-1 in %{told}", x_label="10⁹ multiply-adds")
    axes.margins(0.1)
    write_names(axes, names, [*(plain for plain, _ in arrows), *((each.gmacs, each.top1) for each in trained)], arrows)


def draw_arms(axes: Axes, arms: Sequence[Point]) -> None:
    """The arms of each grid: mean and deviation over seeds."""
    from matplotlib.ticker import AutoLocator

    for at, grid in enumerate(dict.fromkeys(point.group for point in arms)):
        colour = COLOURS[at % len(COLOURS)]
        of_grid = [point for point in arms if point.group == grid]
        axes.errorbar(
            [point.gmacs for point in of_grid], [point.top1 for point in of_grid],
            yerr=[point.deviation for point in of_grid], fmt="o", capsize=3, color=colour, label=grid,
        )  # fmt: skip
    finish(axes, "Ablations, top-1 in %: mean ± deviation over seeds", x_label="10⁹ multiply-adds")
    # less than 10⁹ of them: no whole numbers
    axes.xaxis.set_major_locator(AutoLocator())
    axes.margins(x=0.25)
    reach = [((each.gmacs, each.top1 - each.deviation), (each.gmacs, each.top1 + each.deviation)) for each in arms]
    write_names(
        axes, [(each.name, (each.gmacs, each.top1)) for each in sorted(arms, key=lambda arm: -arm.top1)], lines=reach
    )
