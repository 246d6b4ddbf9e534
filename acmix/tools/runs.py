"""Runs as they lie on the disk, read to be compared: settings, log, summary, and a name that tells them apart."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from acmix import config as configuration
from acmix.config import Config
from acmix.errors import UsageError
from acmix.tasks import Task, task_of
from acmix.train.checkpoint import read
from acmix.train.log import read_summary, why_early
from acmix.train.plots import Log, read_log
from acmix.train.resume import flat
from acmix.train.resume import shown as as_typed

# of a setting that a run does not have
ABSENT = "–"


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Args:
        place: its folder, or a checkpoint that lies by itself.
        config: as it was resolved.
        log: empty but for one epoch where there is a checkpoint alone.
        summary: what summary.json says, or nothing.
        name: short, and unlike those of the runs beside it.
    """

    place: Path
    config: Config
    log: Log
    summary: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every setting as one types it, and what is no setting but makes a difference."""
        start = self.log.start
        made_by = {
            "device": self.summary.get("device", start.get("device")),
            "processes": start.get("processes"),
            **{f"version of {name}": version for name, version in (start.get("versions") or {}).items()},
            "commit": start.get("commit"),
        }
        made_by = {key: str(value) for key, value in made_by.items() if value is not None}
        return {key: as_typed(value) for key, value in flat(self.config).items()} | made_by

    @property
    def images_per_step(self) -> int:
        """Training images that one step takes, on all processes."""
        train = self.config.train
        return train.batch_size * train.accumulation * int(self.log.start.get("processes") or 1)

    def images(self, record: dict[str, Any]) -> float:
        """Training images that the run had seen at a record of its log."""
        return float(record["step"]) * self.images_per_step

    @property
    def last(self) -> dict[str, Any]:
        """The record of the last epoch."""
        return self.log.epochs[-1] if self.log.epochs else {}

    @property
    def epochs(self) -> float:
        """Epochs that have passed."""
        return self.log.progress(self.last) if self.last else 0.0

    @cached_property
    def task(self) -> Task:
        """What the run learned."""
        return task_of(self.config)

    @property
    def best(self) -> dict[str, Any]:
        """The record of the epoch that is best by the task's own metric; {} where no epoch was evaluated."""
        metric = self.task.metric
        evaluated = [
            record for record in self.log.epochs if record.get(metric) is not None and math.isfinite(record[metric])
        ]
        return max(evaluated, key=lambda record: record[metric], default={})

    @property
    def state(self) -> str:
        """How far the run came."""
        wanted, steps = self.config.train.epochs, self.config.train.steps
        if self.place.is_file():
            return "a checkpoint"
        length = self.epochs if steps is None else self.last.get("step", 0)
        said = f"{self.epochs:g} of {wanted} epochs" if steps is None else f"{length} of {steps} steps"
        early = self.summary.get("ended") not in (None, "epochs", "steps")
        if early and self.epochs == self.summary.get("epochs"):
            return f"{said}: {why_early(self.summary)}"
        if length < (wanted if steps is None else steps) or not self.summary:
            said += ", not finished"
        return said + (f", resumed {self.log.resumed}×" if self.log.resumed else "")


def read_runs(places: Sequence[str | os.PathLike[str]]) -> tuple[list[RunRecord], list[str]]:
    """Reads runs, each once, and gives them distinct names.

    Args:
        places: run folders, or checkpoints: one in a run folder stands for its run.

    Returns:
        The runs in the order given, and lines on what was given twice.

    Raises:
        UsageError: one is no run, or cannot be read.
    """
    found: dict[Path, RunRecord] = {}
    notes = []
    for place in map(Path, places):
        home = home_of(place)
        if home.resolve() in found:
            notes.append(f"{place} is given twice; it is shown once")
        else:
            found[home.resolve()] = read_folder(home) if os.path.isdir(home) else read_checkpoint(home)
    names = distinct_names(list(found))
    return [replace(run, name=name) for run, name in zip(found.values(), names, strict=True)], notes


def home_of(place: Path) -> Path:
    """The run folder that a place stands for; a checkpoint that lies in none stands for itself."""
    if os.path.isdir(place):
        missing = [name for name in ("config.yaml", "log.jsonl") if not (place / name).is_file()]
        if missing:
            raise UsageError(
                f"{place} is not a run folder: no {' and no '.join(missing)}; give output folders of `acmix train`, or "
                "checkpoints"
            )
        return place
    run = place.absolute().parent.parent
    is_inside = place.absolute().parent.name == "checkpoints" and (run / "log.jsonl").is_file()
    return run if is_inside and os.path.isfile(place) else place


def read_folder(folder: Path) -> RunRecord:
    """A run folder, of a run that is finished or not."""
    summary = read_summary(folder / "summary.json")
    return RunRecord(folder, configuration.load(folder / "config.yaml"), read_log(folder), summary)


def read_checkpoint(file: Path) -> RunRecord:
    """What a checkpoint says of its run."""
    contents = read(file)
    metrics = contents.get("metrics")
    record = {"epoch": contents.get("epoch") or 0, "step": contents.get("step") or 0}
    if isinstance(metrics, dict):
        record |= metrics
    return RunRecord(file, configuration.validate(contents["config"], where=str(file)), Log({}, [], [record]))


def distinct_names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths, of one length where they would be the same, that tell them apart."""
    lengths = [1] * len(places)
    while True:
        names = [Path(*place.parts[-length:]).as_posix() for place, length in zip(places, lengths, strict=True)]
        alike = {name for name in names if names.count(name) > 1}
        longer = [length + (name in alike) for name, length in zip(names, lengths, strict=True)]
        if longer == lengths or not alike:
            return names
        if all(length > len(place.parts) for place, length in zip(places, longer, strict=True)):
            return names
        lengths = longer


def differing(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs, in the schema's order: one value a run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = {key: [run.settings.get(key, ABSENT) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
