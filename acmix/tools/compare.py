"""Runs side by side: final figures with the noise of their differences, and the settings that differ."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acmix.errors import UsageError
from acmix.tasks.evaluation import LABELS
from acmix.tools.runs import ABSENT, RunRecord, differing, read_runs

# standard errors on either side of a 95 % interval
WIDTH = 1.96
TOO_FEW = "`acmix compare` sets runs side by side: give two or more; `acmix report RUN` shows one"


@dataclass(frozen=True)
class Difference:
    """How far a run's metric lies above another's.

    Args:
        points: percentage points.
        noise: half the width of the 95 % interval, in points; None where it is unknown: of another metric than top-1,
            or where the number of evaluated images is.
    """

    points: float
    noise: float | None

    @property
    def is_noise(self) -> bool:
        """Whether the difference is known to be no larger than its noise."""
        return self.noise is not None and abs(self.points) <= self.noise

    def __str__(self) -> str:
        noise = "" if self.noise is None else f" ± {self.noise:.2f}"
        return f"{self.points:+.2f}{noise}"


@dataclass(frozen=True)
class Comparison:
    """Runs, in the order they were given; the others are measured against the first.

    Args:
        runs: two or more.
        metric: that all runs have: top-1, AP or mIoU; "" where they have none.
        differences: of it, of each run's best epoch from the first one's; None where either was not evaluated, or on
            another number of images.
        settings: those that differ, a value a run.
        notes: lines on what was left out, and on what the figures do not say.
    """

    runs: list[RunRecord]
    metric: str
    differences: list[Difference | None]
    settings: dict[str, list[str]]
    notes: list[str]

    def figures(self) -> tuple[list[str], list[list[str]]]:
        """A heading and a row a run: the figures it ended with, or has come to."""
        others = [name for name in dict.fromkeys(name for run in self.runs for name in run.task.shown)]
        others = [name for name in others if name != self.metric]
        has_loss = any(run.config.task.name == "classify" for run in self.runs)
        head = ["#", "run", *([f"{LABELS[self.metric]} %", "− #1, points"] if self.metric else [])]
        head += [*(f"{LABELS[name]} %" for name in others), *(["val loss"] if has_loss else []), "best epoch"]
        head += ["state", "images seen", "parameters", "images/s"]
        rows = []
        for number, (run, difference) in enumerate(zip(self.runs, self.differences, strict=True), 1):
            best = run.best
            beyond = "" if difference is None else f"{difference}{' (noise)' if difference.is_noise else ''}"
            parameters = run.summary.get("parameters", run.log.start.get("parameters"))
            speed = run.last.get("images_per_second", run.summary.get("images_per_second"))
            row = [str(number), run.name]
            row += [in_form(best.get(self.metric), ".2f"), beyond or ABSENT] if self.metric else []
            row += [in_form(best.get(name) if name in run.task.shown else None, ".2f") for name in others]
            row += [in_form(best.get("val_loss"), ".4f")] if has_loss else []
            row += [f"{run.log.progress(best):g}" if best else ABSENT, run.state]
            row += [in_form(run.images(run.last) if run.last else None, ",.0f"), in_form(parameters, ",")]
            rows.append([*row, in_form(speed, ",.0f")])
        return head, rows

    def grouped_settings(self) -> list[list[str]]:
        """Rows for a terminal, narrow for any number of runs: a setting, a value, and the runs that have it."""
        rows = []
        for key, values in self.settings.items():
            for i, value in enumerate(dict.fromkeys(values)):
                numbers = [str(number) for number, each in enumerate(values, 1) if each == value]
                rows.append([key if i == 0 else "", value, ", ".join(f"#{number}" for number in numbers)])
        return rows

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        told = []
        for run, difference in zip(self.runs, self.differences, strict=True):
            figures = {key: run.best.get(key) for key in (*run.task.metrics, "val_loss", "val_images")}
            told.append(
                {
                    "name": run.name,
                    "place": str(run.place),
                    "model": run.config.model.name,
                    "state": run.state,
                    **figures,
                    "best_epoch": run.log.progress(run.best) if run.best else None,
                    "epochs": run.epochs,
                    "images_seen": run.images(run.last) if run.last else 0.0,
                    "parameters": run.summary.get("parameters", run.log.start.get("parameters")),
                    "difference": None if difference is None else difference.points,
                    "noise": None if difference is None else difference.noise,
                }
            )
        return {"runs": told, "settings": self.settings, "notes": self.notes}


def compare(places: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Sets runs side by side.

    Args:
        places: two or more run folders, finished or not, or checkpoints.

    Raises:
        UsageError: there are fewer than two different runs, or one cannot be read.
    """
    runs, notes = read_runs(places)
    if len(runs) < 2:
        raise UsageError(TOO_FEW if len(places) < 2 else f"{Path(places[0])} is the only run here; {TOO_FEW}")
    first, metric = runs[0], common_metric(runs)
    differences = [None, *(difference(first, run, metric) for run in runs[1:])]
    return Comparison(runs, metric, differences, differing(runs), notes + warnings(runs, metric, differences))


def common_metric(runs: Sequence[RunRecord]) -> str:
    """The metric that all runs have: the first run's own where it can be; "" where their tasks have none in common."""
    first = runs[0].task
    names = [first.metric, *first.metrics]
    return next((name for name in names if all(name in run.task.metrics for run in runs)), "")


def difference(first: RunRecord, run: RunRecord, metric: str) -> Difference | None:
    """How far a run's metric lies above the first run's, in the epoch that was each one's best."""
    ours, theirs = run.best.get(metric), first.best.get(metric)
    if ours is None or theirs is None:
        return None
    counts = run.best.get("val_images"), first.best.get("val_images")
    points = ours - theirs
    if not counts[0] or not counts[1]:
        return Difference(points, None)
    if counts[0] != counts[1]:
        return None
    if metric != "top1":
        return Difference(points, None)
    return Difference(points, WIDTH * standard_error(ours, theirs, counts[0]))


def standard_error(first: float, second: float, images: int) -> float:
    """The standard error of a difference between two accuracies of so many images each, in percentage points.

    As Agresti and Caffo have it: one more image right and one more wrong on either side, so that 100 % of a few images
    is not taken for certain. What two models have in common on the same images would make it smaller.
    """
    shares = [(share / 100 * images + 1) / (images + 2) for share in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) / (images + 2) for share in shares))


def warnings(runs: Sequence[RunRecord], metric: str, differences: Sequence[Difference | None]) -> list[str]:
    """What the differences do not say."""
    known = [each for each in differences if each is not None]
    said = []
    if any(each.noise is not None for each in known):
        images = runs[0].best["val_images"]
        said.append(
            f"± is the 95 % interval of a difference measured on {images:,} images; (noise): no larger than that, so "
            "it shows nothing. Another seed adds noise of its own."
        )
    if known and metric != "top1":
        said.append(
            f"The noise of a difference of {LABELS[metric]} is not known: other seeds and other images would show it."
        )
    elif any(each.noise is None for each in known):
        said.append(
            "A difference without ± has an unknown noise: one of the two runs did not record how many images it was "
            "evaluated on."
        )
    counts = {run.best.get("val_images") for run in runs if run.best} - {None}
    if not metric:
        tasks = ", ".join(f"{run.name}: {run.config.task.name}" for run in runs)
        said.append(f"Runs of other tasks have no measure in common ({tasks}).")
    if len(counts) > 1:
        listed = ", ".join(f"{run.name}: {run.best['val_images']:,}" for run in runs if run.best.get("val_images"))
        said.append(f"Accuracies on other numbers of images do not compare ({listed}).")
    if any(not run.best for run in runs):
        said.append(f"Not evaluated yet: {', '.join(run.name for run in runs if not run.best)}.")
    return said


def in_form(value: Any, form: str) -> str:
    """A figure in its form; a dash where it is not known."""
    is_known = isinstance(value, (int, float)) and math.isfinite(value)
    return format(value, form) if is_known else ABSENT
