"""Reads a run's log and draws it: how the training went, and which path every block came to lean on."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acmix.errors import UsageError
from acmix.tasks.classify import TOP, tells_top5
from acmix.tasks.evaluation import LABELS
from acmix.train.files import make_place, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTENTION, CONVOLUTION = "#2a6fdb", "#d9600c"
TRAINING, VALIDATION, TOP5 = "#8d94a0", "#0b8a7a", "#7a56d0"
INK, GRID = "#191c20", "#e2e3de"
# how every such file begins
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Log:
    """What `log.jsonl` says, each step and epoch once, in order; `start` is the record of the latest start."""

    start: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    # how often the run was taken up again
    resumed: int = 0

    def progress(self, record: dict[str, Any]) -> float:
        """How many epochs had passed at a record, with the fraction of the one under way."""
        steps_per_epoch = self.start.get("steps_per_epoch")
        return record["step"] / steps_per_epoch if steps_per_epoch else float(record["epoch"])

    @property
    def metric(self) -> str:
        """The metric that chose the best weights."""
        found = self.start.get("metric")
        return found if isinstance(found, str) else "top1"

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that curves tell; of older logs, top-5 where it says anything, or may."""
        found = self.start.get("shown")
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return tuple(found)
        model = (self.start.get("config") or {}).get("model") or {}
        return ("top1", "top5") if tells_top5(model.get("num_classes", TOP + 1)) else ("top1",)

    def rates(self) -> dict[str, list[tuple[float, float, float]]]:
        """The rates of every block in network order: block -> (epochs passed, rate_attention, rate_conv)."""
        blocks: dict[str, list[tuple[float, float, float]]] = {}
        for record in self.epochs:
            for block, (attention, conv) in (record.get("rates") or {}).items():
                blocks.setdefault(block, []).append((self.progress(record), attention, conv))
        return blocks


def read_log(run_dir: str | os.PathLike[str]) -> Log:
    """Reads `log.jsonl` of a run folder; where a resumed run repeats a step or an epoch, the later record counts.

    Args:
        run_dir: the folder `acmix train` wrote.

    Returns:
        The log; lists are empty where the run has not come that far.

    Raises:
        UsageError: the folder holds no log.
    """
    path = Path(run_dir) / "log.jsonl"
    if not path.is_file():
        raise UsageError(f"{run_dir} holds no log.jsonl: expected the output folder of `acmix train`")
    starts: list[dict[str, Any]] = []
    steps: dict[int, dict[str, Any]] = {}
    epochs: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = parse_line(line)
            event = record.get("event")
            if event == "start":
                starts.append(record)
            elif not is_sound(record):
                continue
            elif event == "step":
                steps[record["step"]] = record
            elif event == "epoch":
                epochs[record["epoch"]] = record
    return Log(
        start=starts[-1] if starts else {},
        steps=[steps[step] for step in sorted(steps)],
        epochs=[epochs[epoch] for epoch in sorted(epochs)],
        resumed=max(0, len(starts) - 1),
    )


def draw_curves(run_dir: str | os.PathLike[str]) -> Path:
    """Draws loss, accuracy and learning rate of a run into `curves.png`.

    Args:
        run_dir: the folder `acmix train` wrote.

    Returns:
        The picture's path.

    Raises:
        UsageError: the folder holds no log.
    """
    log = read_log(run_dir)
    figure = new_figure()
    for axes, draw in zip(figure.subplots(1, 3), (draw_loss, draw_metrics, draw_learning_rate), strict=True):
        draw(axes, log)
    return save(figure, Path(run_dir) / "curves.png")


def draw_paths(run_dir: str | os.PathLike[str]) -> Path | None:
    """Draws the rates of both paths into `paths.png`: every block over the epochs, and at the end against depth.

    Args:
        run_dir: the folder `acmix train` wrote.

    Returns:
        The picture's path; None where no block has rates, as in a baseline.

    Raises:
        UsageError: the folder holds no log.
    """
    log = read_log(run_dir)
    return save_paths(log, Path(run_dir) / "paths.png") if log.rates() else None


def save_paths(log: Log, file: Path) -> Path:
    """Draws the rates of both paths into a file; of a log of one epoch against depth alone."""
    from matplotlib import colormaps

    rates = log.rates()
    if len(log.epochs) == 1:
        figure = new_figure(width=max(6.0, min(13.5, 0.45 * len(rates))))
        draw_depth(figure.subplots(), log)
        return save(figure, file)
    figure = new_figure()
    attention, conv, depth = figure.subplots(1, 3, sharey=True)
    # light to dark is shallow to deep; the ends of the maps are left out: too pale, too black
    for index, history in enumerate(rates.values()):
        shade = 0.35 + 0.6 * index / max(1, len(rates) - 1)
        passed, alphas, betas = zip(*history, strict=True)
        label = {0: "first block", len(rates) - 1: "last block"}.get(index)
        plot(attention, passed, alphas, color=colormaps["Blues"](shade), label=label)
        plot(conv, passed, betas, color=colormaps["Oranges"](shade), label=label)
    finish(attention, "Attention rate α of every block", x_label="epoch")
    finish(conv, "Convolution rate β of every block", x_label="epoch")
    draw_depth(depth, log)
    return save(figure, file)


def draw_loss(axes: Axes, log: Log) -> None:
    """The training loss of every step with its parts, and both losses of every epoch."""
    passed = [log.progress(record) for record in log.epochs]
    every_step = [log.progress(record) for record in log.steps]
    axes.plot(every_step, values(log.steps, "loss"), color=TRAINING, alpha=0.35, linewidth=0.8)
    parts = [record.get("losses") or {} for record in log.steps]
    for name in dict.fromkeys(name for each in parts for name in each):
        plot(axes, every_step, values(parts, name), marker="", linewidth=0.8, alpha=0.7, label=name)
    plot(axes, passed, values(log.epochs, "train_loss"), color=TRAINING, label="training")
    plot(axes, passed, values(log.epochs, "val_loss"), color=VALIDATION, label="validation")
    finish(axes, "Loss", x_label="epoch")


def draw_metrics(axes: Axes, log: Log) -> None:
    """The validation metrics of every epoch that was evaluated."""
    passed = [log.progress(record) for record in log.epochs]
    colours = (VALIDATION, TOP5, ATTENTION)
    for place, name in enumerate(log.shown):
        colour = colours[place % len(colours)]
        plot(axes, passed, values(log.epochs, name), color=colour, label=LABELS.get(name, name))
    best = max((value for value in values(log.epochs, log.metric) if math.isfinite(value)), default=None)
    best_note = "" if best is None else f" (best {LABELS.get(log.metric, log.metric)} {best:.2f} %)"
    title = "Validation accuracy" if log.metric == "top1" else "Validation"
    finish(axes, f"{title}, %{best_note}", x_label="epoch")


def draw_learning_rate(axes: Axes, log: Log) -> None:
    """The learning rate of every step."""
    plot(axes, [log.progress(record) for record in log.steps], values(log.steps, "lr"), color=INK)
    finish(axes, "Learning rate", x_label="epoch")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")


def draw_depth(axes: Axes, log: Log) -> None:
    """The rates of both paths after the last epoch, from the first block to the last."""
    rates = log.rates()
    last = [history[-1] for history in rates.values()]
    order = list(range(1, len(rates) + 1))
    axes.plot(order, [alpha for _, alpha, _ in last], color=ATTENTION, marker="o", label="attention α")
    axes.plot(order, [beta for _, _, beta in last], color=CONVOLUTION, marker="s", label="convolution β")
    starts = stage_starts(list(rates))
    for boundary in starts:
        axes.axvline(boundary + 0.5, color=INK, alpha=0.6, linewidth=1, linestyle=":")
    finish(
        axes, f"After epoch {last[0][0]:g}, against depth", x_label=f"block{' (dotted: a new stage)' if starts else ''}"
    )


def draw_block(axes: Axes, history: Sequence[tuple[float, float, float]]) -> None:
    """The rates of one block, as `Log.rates` has them, over the epochs."""
    passed, alphas, betas = zip(*history, strict=True)
    plot(axes, passed, alphas, color=ATTENTION, label="α")
    plot(axes, passed, betas, color=CONVOLUTION, label="β")
    finish(axes, "", x_label="epoch", legend=False)


def stage_starts(blocks: Sequence[str]) -> list[int]:
    """The indices at which a new stage begins, read from names like `layers.1.blocks.0.attn`; none for a single row."""
    stages = [numbers[0] if len(numbers := re.findall(r"\d+", block)) > 1 else "" for block in blocks]
    return [index for index in range(1, len(stages)) if stages[index] != stages[index - 1]]


# what a record holds as a number, where it holds it
NUMBERS = ("loss", "lr", "train_loss", "val_loss", *LABELS, "images_per_second", "seconds", "val_images")


def is_sound(record: dict[str, Any]) -> bool:
    """Whether a record of a step or an epoch can be drawn: its numbers are numbers."""
    if not isinstance(record.get("step"), int) or not isinstance(record.get("epoch"), int):
        return False
    rates = record.get("rates") or {}
    if not isinstance(rates, dict) or not all(isinstance(both, list) and len(both) == 2 for both in rates.values()):
        return False
    losses = record.get("losses") or {}
    if not isinstance(losses, dict):
        return False
    numbers = [record.get(key) for key in NUMBERS] + [rate for both in rates.values() for rate in both]
    numbers += losses.values()
    return all(number is None or isinstance(number, (int, float)) for number in numbers)


def parse_line(line: str) -> dict[str, Any]:
    """One record; {} where a kill tore the line. What a resumed run wrote behind a torn piece is still found."""
    for text in (line, line[max(0, line.rfind('{"event"')) :]):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            # of a number of more digits than Python reads, and of lists in lists, too
            continue
        return record if isinstance(record, dict) else {}
    return {}


def values(records: list[dict[str, Any]], key: str) -> list[float]:
    """One column of the log; NaN where the record has none."""
    return [math.nan if record.get(key) is None else float(record[key]) for record in records]


def new_figure(width: float = 13.5, height: float = 3.9) -> Figure:
    """A figure of its own, outside pyplot, so that drawing changes nothing for a caller who plots too."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plot(axes: Axes, xs: Sequence[float], ys: Sequence[float], *, marker: str = "o", **style: Any) -> None:
    """One line through the finite points, with a marker at its end, so that a single point is seen too."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if points:
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker=marker, markevery=[len(xs) - 1], markersize=4, **style)


def finish(axes: Axes, title: str, x_label: str, *, legend: bool = True) -> None:
    """Title, labels, a quiet grid, and a legend where lines carry names."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_tick_params(labelleft=True)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def check_picture(file: Path | None) -> None:
    """Makes the folder of a picture that is to be drawn later; None is no picture.

    Raises:
        UsageError: its name is no PNG's, something else has it already, or no file can be written there.
    """
    if file is None:
        return
    if file.suffix.lower() != ".png":
        raise UsageError(f"{file}: expected a name that ends in .png")
    make_place(file)
    if not file.exists():
        return
    if not file.is_file():
        raise UsageError(f"{file} is no regular file; choose another name")
    with file.open("rb") as there:
        begins = there.read(len(PNG))
    if begins and begins != PNG:
        raise UsageError(f"{file} is there already and is no PNG; choose another name, or move it away")


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    return write_atomically(path, buffer.getvalue())
