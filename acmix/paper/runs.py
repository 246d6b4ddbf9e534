"""The runs of a grid: what each came to, read from its folder, and the table of all that were started."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from acmix.benchmark.record import read_table, write_table
from acmix.config import as_yaml
from acmix.errors import UsageError
from acmix.paper.grid import Grid, read_grid
from acmix.tasks.evaluation import LABELS
from acmix.train.files import make_place, write_atomically
from acmix.train.log import duration, read_summary
from acmix.train.plots import read_log

GRID, TABLE, LOG, PICTURE = "grid.yaml", "runs.csv", "ablation.log", "ablation.png"
WAITING, STARTED, DONE, FAILED = "waiting", "started", "done", "failed"


@dataclass
class Run:
    """One run as the table has it; what is not known yet is "".

    Args:
        grid, arm, seed: which.
        status: "waiting", "started", "done" or "failed".
        metric: of the last epoch, in percent; the best epoch's would be chosen by the images that it is measured on.
        value: its figure.
        epochs, seconds, parameters, device, commit: as the run's summary and log say; seconds are of the epochs.
        said: of a failed run, its last line.
    """

    grid: str
    arm: str
    seed: int
    status: str = WAITING
    metric: str = ""
    value: str = ""
    epochs: str = ""
    seconds: str = ""
    parameters: str = ""
    device: str = ""
    commit: str = ""
    said: str = ""

    @property
    def name(self) -> str:
        """Its folder below the grid's."""
        return f"{self.arm}/seed_{self.seed}"

    def look(self, output: Path) -> Run:
        """Takes up what its folder says; a damaged one has failed."""
        folder = output / self.name
        if not (folder / "log.jsonl").is_file():
            return self
        self.status = STARTED
        try:
            log, summary = read_log(folder), read_summary(folder / "summary.json")
        except (UsageError, OSError) as error:
            self.status, self.said = FAILED, str(error)
            return self
        self.device, self.commit = (str(log.start.get(key) or "") for key in ("device", "commit"))
        self.seconds = f"{sum(each.get('seconds') or 0.0 for each in log.epochs):.3f}"
        if summary.get("ended") != "epochs":
            return self
        metric = str(summary.get("best_metric"))
        value = summary.get(f"last_{metric}")
        if metric not in LABELS or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.status = FAILED
            self.said = f"{folder / 'summary.json'} has no figure of the last epoch; delete {folder} and start again"
            return self
        self.status, self.said = DONE, ""
        self.metric, self.value = LABELS[metric], f"{value:.6f}"
        self.epochs, self.parameters = (str(summary.get(key, "")) for key in ("epochs", "parameters"))
        return self

    def progress(self, output: Path) -> float:
        """The share of its epochs that have passed, 0 to 1."""
        if self.status == DONE:
            return 1.0
        folder = output / self.name
        if not (folder / "log.jsonl").is_file():
            return 0.0
        log = read_log(folder)
        newest = [*log.steps[-1:], *log.epochs[-1:]]
        passed = max((log.progress(each) for each in newest), default=0.0)
        config = log.start.get("config")
        training = config.get("train") if isinstance(config, dict) else None
        epochs = training.get("epochs") if isinstance(training, dict) else None
        return min(1.0, passed / epochs) if isinstance(epochs, int) and epochs > 0 else 0.0


COLUMNS = tuple(each.name for each in fields(Run))
KEY = ("grid", "arm", "seed")


def runs_of(grid: Grid, output: Path) -> list[Run]:
    """Every run of a grid, as its folder says; of one that failed, the table."""
    failed = {(row["arm"], row["seed"]): row["said"] for row in read_rows(output / TABLE) if row["status"] == FAILED}
    runs = [Run(grid.name, arm, seed).look(output) for arm, seed in grid.runs()]
    for run in runs:
        if run.status != DONE and (said := failed.get((run.arm, str(run.seed)))) is not None:
            run.status, run.said = FAILED, said
    return runs


def read_rows(file: Path) -> list[dict[str, str]]:
    """A table's rows; none where it is missing or empty.

    Raises:
        UsageError: it is none of ours, or damaged.
    """
    rows = read_table(file, COLUMNS)
    for row in rows:
        try:
            sound = row["seed"].isdecimal() and (not row["value"] or math.isfinite(float(row["value"])))
        except ValueError:
            sound = False
        if not sound:
            raise UsageError(
                f"{file} is damaged: a run has seed {row['seed']!r} and value {row['value']!r}; move it away"
            )
    return rows


def runs_there(grid: Grid, output: Path) -> list[Run]:
    """The same of a folder where runs were started.

    Raises:
        UsageError: none was, or the folder holds another grid's.
    """
    if not (output / GRID).is_file():
        raise UsageError(f"no run of {grid.name} was started in {output}; name its folder with --output")
    kept(grid, output)
    return runs_of(grid, output)


def to_do(runs: Iterable[Run]) -> list[Run]:
    """Those that have not come to their end."""
    return [each for each in runs if each.status != DONE]


def told(runs: Sequence[Run], output: Path) -> str:
    """How far the runs are, and how long the rest takes, in a sentence."""
    done, failed = (sum(each.status == status for each in runs) for status in (DONE, FAILED))
    begun = {each.name: each.progress(output) for each in runs if each.status == STARTED}
    parts = [f"{done} of {len(runs)} runs done", *([f"{failed} failed"] if failed else [])]
    if begun:
        parts.append("begun: " + ", ".join(f"{name} {share:.0%}" for name, share in begun.items()))
    seconds = [float(each.seconds) for each in runs if each.status == DONE]
    left = sum(1.0 - begun.get(each.name, 0.0) for each in runs if each.status in (WAITING, STARTED))
    if seconds and left:
        parts.append(f"about {duration(left * sum(seconds) / len(seconds))} left, one run at a time")
    return "; ".join(parts)


def write_runs(runs: Iterable[Run], file: Path) -> None:
    """Writes every run that was ever started into a table; rows of other grids in it stay.

    Raises:
        UsageError: the file cannot be written.
    """
    write_table(file, COLUMNS, [asdict(each) for each in runs if each.status != WAITING], key=KEY)


def check_folder(grid: Grid, output: Path) -> None:
    """Refuses a folder of something else.

    Raises:
        UsageError: it holds another grid's runs, or other files, or is none.
    """
    file = output / GRID
    if file.is_file():
        if read_grid(file) != grid:
            raise UsageError(
                f"{output} holds runs of another grid, as {GRID} in it says; name another folder with --output"
            )
    elif output.is_dir():
        if any(each.name != LOG for each in output.iterdir()):
            raise UsageError(f"{output} holds other files than a grid's runs; name another folder with --output")
    elif os.path.lexists(output):
        raise UsageError(f"{output} is no folder; name another one with --output")


def kept(grid: Grid, output: Path) -> None:
    """Writes the grid beside its runs; one that was begun stays as it was.

    Raises:
        UsageError: as `check_folder`, or it cannot be written.
    """
    check_folder(grid, output)
    file = output / GRID
    if not file.is_file():
        make_place(file)
        write_atomically(file, as_yaml(grid.model_dump(mode="json")).encode())


def last_line(file: Path) -> str:
    """What a program said last."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    said = next((each.strip() for each in reversed(lines) if each.strip()), "it said nothing")
    return said[:300]
