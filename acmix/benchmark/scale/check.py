"""The model of scale beside measurements: two gloo processes here, and the table to 512 cards for the recipe.

python benchmarks/scale.py [--rounds N] [--steps N] [--seconds S]

A small Swin with 20 MiB of gradients learns digits, one thread a process. A round measures, in turn,

    parts   as `acmix benchmark scale --measure` does, in two processes; from them the efficiency is predicted
    A       two `acmix train` at once that know nothing of each other: images/s of one card. A process alone on the
            machine would have its caches and memory for itself, and what it loses beside another would be taken for
            communication
    B       one run in two processes, by the launcher of run.sh

and the medians over rounds are compared. Images/s are those of log.jsonl, without the first record.

->  benchmarks/results/scale.csv, scale_table.csv and scale.png, and the tables of docs/scaling.md
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from acmix.benchmark.published.cells import put_between
from acmix.benchmark.record import counted, measured_with
from acmix.benchmark.scale.measure import measure_parts
from acmix.benchmark.scale.parts import Parts
from acmix.benchmark.scale.recipe import recipe_sets
from acmix.benchmark.scale.step import simulate
from acmix.benchmark.scale.table import draw_curves, rounded, rows, save, write_csv
from acmix.config import Config, dump, validate
from acmix.data.digits import write_digits
from acmix.errors import UsageError
from acmix.train.log import duration

PAGE = Path("docs") / "scaling.md"
COLUMNS = (
    *("date", "commit", "machine", "torch", "timm", "batch_size", "accumulation", "gradients_mib", "rounds"),
    *("one_images_per_second", "two_images_per_second", "efficiency", "efficiency_low", "efficiency_high"),
    *("predicted_one", "predicted_two", "predicted_efficiency", "predicted_low", "predicted_high"),
    *("communication_ms", "waiting_ms", "gb_per_second", "latency_us", "compute_rate", "communication_rate"),
)
MODEL = {
    "name": "acmix_swin_tiny_patch4_window7_224",
    "num_classes": 10,
    "in_chans": 1,
    "args": {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16], "window_size": 4},
}
AUGMENT = {"hflip": 0.0, "color_jitter": None, "auto_augment": None, "random_erasing": 0.0}
# records of the log: this many steps each, of which the first is left out
STEPS_A_RECORD = 5
# what a run may take, in seconds
LONGEST = 240


class Setting(NamedTuple):
    """Images of a process in one pass, and passes a step."""

    batch_size: int
    accumulation: int


SETTINGS = (Setting(4, 1), Setting(16, 1), Setting(4, 4))


class Round(NamedTuple):
    """What one round gave: images/s of one card and of two, and the parts."""

    one: float
    two: float
    parts: Parts

    @property
    def efficiency(self) -> float:
        """Measured."""
        return self.two / (2 * self.one)

    @property
    def predicted(self) -> float:
        """Of the parts."""
        return simulate(self.parts, 2).efficiency(simulate(self.parts, 1))


def main(root: Path) -> int:
    """Reads the command line, measures and writes; the exit status.

    Args:
        root: of the repository.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="of each setting (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of each run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of four parts (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=root / "benchmarks" / "results", help="folder of the tables")
    parser.add_argument("--tables", action="store_true", help="measure nothing; the tables from the results")
    asked = parser.parse_args()
    if min(asked.rounds, asked.steps, asked.seconds) <= 0:
        raise UsageError("--rounds, --steps and --seconds: expected numbers above 0")
    if not asked.tables:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        for found in compare(asked.rounds, asked.steps, asked.seconds):
            # what is there so far, should the next round be stopped
            write_csv(found, asked.results / "scale.csv", COLUMNS)
            draw_both(found, asked.results / "scale.png")
    write_csv([row for parts in recipe_sets() for row in rows(parts)], asked.results / "scale_table.csv")
    if asked.results == root / "benchmarks" / "results":
        put_tables(root)
    return 0


def compare(rounds: int, steps: int, seconds: float) -> Iterator[list[dict[str, Any]]]:
    """Measures every setting; after each round, a row for each of all rounds so far."""
    began, made = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="acmix_scale_") as name:
        folder = Path(name)
        data = few_to_validate(folder)
        # the settings in turn, so that a drift of the machine meets all
        of_setting: dict[Setting, list[Round]] = {setting: [] for setting in SETTINGS}
        for number in range(rounds):
            for setting in SETTINGS:
                measured = one_round(setting, data, folder / f"{number}_{len(made)}", steps, seconds)
                of_setting[setting].append(measured)
                made.append(measured)
                left = (time.monotonic() - began) / len(made) * (rounds * len(SETTINGS) - len(made))
                print(
                    f"batch {setting.batch_size} x {setting.accumulation}, round {number + 1}: efficiency "
                    f"{measured.efficiency:.1%}, predicted {measured.predicted:.1%} · about {duration(left)} left",
                    flush=True,
                )
            yield [row_of(setting, found) for setting, found in of_setting.items()]


def few_to_validate(folder: Path) -> Path:
    """Digits, of which ten are validated on: no run is here to be accurate."""
    whole, few = write_digits(folder / "digits"), folder / "few"
    few.mkdir()
    (few / "train").symlink_to(whole / "train")
    for place in sorted((whole / "val").iterdir()):
        (few / "val" / place.name).mkdir(parents=True)
        shutil.copy(min(place.iterdir()), few / "val" / place.name)
    return few


def config_of(setting: Setting, data: Path, steps: int) -> Config:
    """A run of some steps, with nothing but steps."""
    seldom = 10_000
    return validate(
        {
            "model": MODEL,
            "data": {"dir": str(data), "img_size": 32, "mean": [0.3], "std": [0.35], "workers": 0},
            "augment": AUGMENT,
            "schedule": {"warmup_epochs": 1},
            "train": {
                **{"steps": steps, "batch_size": setting.batch_size, "accumulation": setting.accumulation},
                **{"log_every_steps": STEPS_A_RECORD, "tensorboard": False, "device": "cpu", "precision": "fp32"},
                **{"evaluate_every_epochs": seldom, "checkpoint_every_epochs": seldom},
            },
        },
        where="benchmark",
    )


def one_round(setting: Setting, data: Path, folder: Path, steps: int, seconds: float) -> Round:
    """Parts, then two runs of one process at once, then one run of two."""
    folder.mkdir()
    config = config_of(setting, data, steps)
    parts = measure_parts(config, 2, seconds=seconds)
    file = folder / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    alone = [folder / name for name in ("left", "right")]
    train = [sys.executable, "-m", "acmix", "train", str(file), "--data", str(data), "--output"]
    finish([start([*train, str(output)], output) for output in alone])
    both = folder / "both"
    launch = [sys.executable, "-m", "acmix.train.launch", "2", str(file), str(data)]
    finish([start(launch, both)])
    return Round(speed_of([speed for output in alone for speed in speeds(output)]), speed_of(speeds(both)), parts)


def start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Starts a run, which prints into a file beside its folder.

    In a session of its own, as a launcher's processes are: Linux shares a busy machine out among sessions.
    """
    with output.with_suffix(".printed").open("wb") as printed:
        environment = {**os.environ, "OUTPUT": str(output)}
        return subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)


def finish(runs: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits for runs, and ends them where the wait ends otherwise.

    Raises:
        UsageError: one failed.
    """
    try:
        statuses = [run.wait(LONGEST) for run in runs]
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"a run takes longer than {LONGEST} s; choose fewer --steps") from error
    finally:
        for run in runs:
            if run.poll() is None:
                run.terminate()
    if any(statuses):
        raise UsageError(f"runs ended with the statuses {statuses}; try one of them alone: acmix train")


def speeds(output: Path) -> list[float]:
    """Images/s of the records of a run's steps, of all its processes, without the first."""
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [record["images_per_second"] for record in map(json.loads, lines) if record["event"] == "step"]
    return found[1:] or found


def speed_of(records: Sequence[float]) -> float:
    """Images/s over all records, which are of as many images each: the mean of their times."""
    return statistics.harmonic_mean(records)


def row_of(setting: Setting, found: Sequence[Round]) -> dict[str, Any]:
    """The row of a setting: medians, and the range of efficiencies."""
    measured = [each.efficiency for each in found]
    predicted = [each.predicted for each in found]
    ones, twos = ([simulate(each.parts, cards) for each in found] for cards in (1, 2))
    links = [each.parts.network.inside for each in found if each.parts.network.inside is not None]
    median = statistics.median
    figures = {
        "gradients_mib": found[0].parts.gradients.mib,
        "one_images_per_second": median(each.one for each in found),
        "two_images_per_second": median(each.two for each in found),
        "efficiency": median(measured),
        "efficiency_low": min(measured),
        "efficiency_high": max(measured),
        "predicted_one": median(step.images_per_second for step in ones),
        "predicted_two": median(step.images_per_second for step in twos),
        "predicted_efficiency": median(predicted),
        "predicted_low": min(predicted),
        "predicted_high": max(predicted),
        "communication_ms": 1000 * median(step.exposed for step in twos),
        "waiting_ms": 1000 * median(step.waiting for step in twos),
        "gb_per_second": median(link.gb_per_second for link in links),
        "latency_us": median(link.latency_us for link in links),
        "compute_rate": median(each.parts.network.compute_rate for each in found),
        "communication_rate": median(each.parts.network.communication_rate for each in found),
    }
    made = {**measured_with(torch.device("cpu")), **setting._asdict(), "rounds": len(found)}
    return {**made, **{name: rounded(value) for name, value in figures.items()}}


def draw_both(found: Sequence[dict[str, Any]], file: Path) -> None:
    """Predicted beside measured at two processes, and efficiency to 512 cards."""
    from acmix.train.plots import new_figure

    figure = new_figure(12.0, 4.0)
    left, right = figure.subplots(1, 2)
    places = range(len(found))
    for shift, colour, label, names in (
        (-0.1, "tab:gray", "measured", ("efficiency", "efficiency_low", "efficiency_high")),
        (0.1, "tab:blue", "predicted", ("predicted_efficiency", "predicted_low", "predicted_high")),
    ):
        middle, low, high = ([100 * row[name] for row in found] for name in names)
        xs = [place + shift for place in places]
        left.vlines(xs, low, high, color=colour)
        left.plot(xs, middle, "o", color=colour, label=label)
    left.set_xticks([*places], [f"batch {row['batch_size']} × {row['accumulation']}" for row in found])
    left.set_ylabel("efficiency at two processes, %")
    left.set_ylim(0, 110)
    left.grid(alpha=0.3, axis="y")
    left.legend(loc="lower right")
    draw_curves(right, recipe_sets())
    save(figure, file)


def put_tables(root: Path) -> None:
    """Writes the tables of docs/scaling.md from the results."""
    for name, text in tables(root).items():
        put_between(root / PAGE, f"<!-- scale:{name} -->", f"<!-- /scale:{name} -->", text)


def tables(root: Path) -> dict[str, str]:
    """The tables of docs/scaling.md by their names."""
    results = root / "benchmarks" / "results"
    return {
        "check": check_table(read_csv(results / "scale.csv")),
        "table": to_512(read_csv(results / "scale_table.csv")),
    }


def read_csv(file: Path) -> list[dict[str, str]]:
    """The rows of a file of results."""
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def check_table(found: Sequence[dict[str, str]]) -> str:
    """Predicted and measured at two processes, in Markdown."""
    made = [
        "| batch × accumulation | images/s of one, of two | efficiency measured | predicted | communication, waiting |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found:
        measured, predicted = (
            f"{share(row[name])} ({share(row[low])} to {share(row[high])})"
            for name, low, high in (
                ("efficiency", "efficiency_low", "efficiency_high"),
                ("predicted_efficiency", "predicted_low", "predicted_high"),
            )
        )
        speed = f"{float(row['one_images_per_second']):.1f}, {float(row['two_images_per_second']):.1f}"
        lost = f"{float(row['communication_ms']):.1f} ms, {float(row['waiting_ms']):.1f} ms"
        made.append(f"| {row['batch_size']} × {row['accumulation']} | {speed} | {measured} | {predicted} | {lost} |")
    first = found[0]
    rounds, commit = counted(int(first["rounds"]), "round"), first["commit"][:7]
    made += [
        "",
        f"{first['machine']} a process, gloo, torch {first['torch']}, {first['gradients_mib']} MiB of gradients, "
        f"medians of {rounds} and their range, commit `{commit}`, {first['date'][:10]}.",
    ]
    return "\n".join(made)


def to_512(found: Sequence[dict[str, str]]) -> str:
    """The table to 512 cards, in Markdown."""
    made = [
        "| | cards | step | communication | waiting | images/s | efficiency |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        times = " | ".join(f"{float(row[name]):.1f} ms" for name in ("step_ms", "communication_ms", "waiting_ms"))
        title = row["title"].removeprefix("Swin-S + ACmix, ") if row["cards"] == "1" else ""
        speed = f"{float(row['images_per_second']):,.1f}"
        made.append(f"| {title} | {row['cards']} | {times} | {speed} | {share(row['efficiency'])} |")
    return "\n".join(made)


def share(text: str) -> str:
    """A share as percent."""
    return f"{100 * float(text):.1f} %"
