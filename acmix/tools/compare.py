"""Runs side by side: final figures with the noise of their differences, and the settings that differ."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acmix.errors import UsageError
from acmix.tasks.classify import tells_top5
from acmix.tools.runs import ABSENT, RunRecord, differing, read_runs

# standard errors on either side of a 95 % interval
WIDTH = 1.96
TOO_FEW = "`acmix compare` sets runs side by side: give two or more; `acmix report RUN` shows one"


@dataclass(frozen=True)
class Difference:
    """How far a run's top-1 lies above another's.

    Args:
        points: percentage points.
        noise: half the width of the 95 % interval, in points; None where the number of evaluated images is unknown.
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
        differences: of the best top-1 of each run from the first one's; None where either was not evaluated, or on
            another number of images.
        settings: those that differ, a value a run.
        notes: lines on what was left out, and on what the figures do not say.
    """

    runs: list[RunRecord]
    differences: list[Difference | None]
    settings: dict[str, list[str]]
    notes: list[str]

    def figures(self) -> tuple[list[str], list[list[str]]]:
        """A heading and a row a run: the figures it ended with, or has come to."""
        has_top5 = any(tells_top5(run.config.model.num_classes) for run in self.runs)
        head = ["#", "run", "top-1 %", "− #1, points", *(["top-5 %"] if has_top5 else []), "val loss", "best epoch"]
        head += ["state", "images seen", "parameters", "images/s"]
        rows = []
        for number, (run, difference) in enumerate(zip(self.runs, self.differences, strict=True), 1):
            best, top5 = run.best, []
            if has_top5:
                top5 = [in_form(best.get("top5"), ".2f") if tells_top5(run.config.model.num_classes) else ABSENT]
            beyond = "" if difference is None else f"{difference}{' (noise)' if difference.is_noise else ''}"
            parameters = run.summary.get("parameters", run.log.start.get("parameters"))
            speed = run.last.get("images_per_second", run.summary.get("images_per_second"))
            row = [str(number), run.name, in_form(best.get("top1"), ".2f"), beyond or ABSENT, *top5]
            row += [in_form(best.get("val_loss"), ".4f"), f"{run.log.progress(best):g}" if best else ABSENT, run.state]
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
            keys = ("top1", "top5", "val_loss", "val_images")
            figures = {key: run.best.get(key) for key in keys}
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
    first = runs[0]
    differences = [None, *(difference(first, run) for run in runs[1:])]
    return Comparison(runs, differences, differing(runs), notes + warnings(runs, differences))


def difference(first: RunRecord, run: RunRecord) -> Difference | None:
    """How far a run's best top-1 lies above the first run's."""
    ours, theirs = run.best, first.best
    if not ours or not theirs:
        return None
    counts = ours.get("val_images"), theirs.get("val_images")
    points = ours["top1"] - theirs["top1"]
    if not counts[0] or not counts[1]:
        return Difference(points, None)
    if counts[0] != counts[1]:
        return None
    return Difference(points, WIDTH * standard_error(ours["top1"], theirs["top1"], counts[0]))


def standard_error(first: float, second: float, images: int) -> float:
    """The standard error of a difference between two accuracies of so many images each, in percentage points.

    As Agresti and Caffo have it: one more image right and one more wrong on either side, so that 100 % of a few images
    is not taken for certain. What two models have in common on the same images would make it smaller.
    """
    shares = [(share / 100 * images + 1) / (images + 2) for share in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) / (images + 2) for share in shares))


def warnings(runs: Sequence[RunRecord], differences: Sequence[Difference | None]) -> list[str]:
    """What the differences do not say."""
    known = [each for each in differences if each is not None]
    said = []
    if any(each.noise is not None for each in known):
        images = runs[0].best["val_images"]
        said.append(
            f"± is the 95 % interval of a difference measured on {images:,} images; (noise): no larger than that, so "
            "it shows nothing. Another seed adds noise of its own."
        )
    if any(each.noise is None for each in known):
        said.append(
            "A difference without ± has an unknown noise: one of the two runs did not record how many images it was "
            "evaluated on."
        )
    counts = {run.best.get("val_images") for run in runs if run.best} - {None}
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
