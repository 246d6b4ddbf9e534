"""The share of a step that is lost to a checkpoint every 100 steps: written beside the training, and at once."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from acmix.benchmark.faults.record import Case, Kept, row
from acmix.benchmark.small_runs import Setting, write_images
from acmix.config import validate
from acmix.train import checkpoint
from acmix.train.distributed import join
from acmix.train.loop import Run
from acmix.train.signals import StopRequest
from acmix.train.writer import Writer

# steps from one checkpoint to the next, and the share of them that checkpoints may cost
EVERY, BOUND = 100, 0.01
# about 50 ms a step on two cores
SMALL = {
    "model": {
        "name": "acmix_swin_tiny_patch4_window7_224",
        "args": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "num_classes": 10,
    },
    "data": {"img_size": 32, "workers": 0},
    "train": {"batch_size": 16},
}
LARGE = {
    "model": {"name": "acmix_swin_tiny_patch4_window7_224", "num_classes": 10},
    "data": {"img_size": 224, "workers": 0},
    "train": {"batch_size": 8},
}
# steps that the large one is timed over
FEW = 3


class AtOnce(Writer):
    """Writes while the training waits."""

    def write(self, path: Path, contents: Mapping[str, Any], *, keep: int | None = None) -> None:
        """Writes a checkpoint."""
        checkpoint.save(path, contents, keep=keep)


WRITERS: dict[str, type[Writer] | None] = {"none": None, "beside": Writer, "at once": AtOnce}


def share(setting: Setting, folder: Path, kept: Kept, cases: int) -> list[dict[str, Any]]:
    """Times a small network with checkpoints and without in turn, and estimates a Swin-T's.

    Args:
        setting, kept: not looked at: these figures are measured anew each time.
        folder: of the runs.
        cases: rounds, each of which takes 100 steps without a checkpoint, with one beside, and with one at once.
    """
    write_images("classify", folder)
    rows: list[dict[str, Any]] = []
    with opened(SMALL, folder) as run:
        timed: dict[str, list[float]] = {name: [] for name in WRITERS}
        stood: dict[str, list[float]] = {name: [] for name in WRITERS}
        batch = first_batch(run)
        for number in range(cases + 1):
            for name in WRITERS:
                seconds, still = hundred(run, batch, name)
                # the first round warms up
                if number:
                    timed[name].append(seconds)
                    stood[name].append(still)
            if number:
                print(f"share {number}/{cases} · {lost(timed, 'beside')[-1]:+.2%} beside", flush=True)
        step = statistics.median(timed["none"]) / EVERY
        size = run.state.last.stat().st_size / 2**20
        for name in ("beside", "at once"):
            ratios = lost(timed, name)
            still = statistics.median(stood[name])
            note = f"{share_of(still, step):.2%} as long as the loop stands still ({still * 1e3:.1f} ms)"
            rows.append(in_row("small network", name, statistics.median(ratios), step, size, note, cases))
    with opened(LARGE, folder) as run:
        batch = first_batch(run)
        step = min(timed_steps(run, batch, 1) for _ in range(FEW))
        for name in ("beside", "at once"):
            still = statistics.median(save(run, batch, name) for _ in range(FEW))
            size = run.state.last.stat().st_size / 2**20
            note = f"as long as the loop stands still ({still * 1e3:.0f} ms)"
            rows.append(in_row("Swin-T, 224 px, batch 8", name, share_of(still, step), step, size, note, FEW))
    return rows


def share_of(still: float, step: float) -> float:
    """Of the time of the steps from one checkpoint to the next, that in which the loop stands still."""
    return still / (EVERY * step)


def lost(timed: dict[str, list[float]], name: str) -> list[float]:
    """Of each round, by what share 100 steps with a checkpoint took longer than those without."""
    return [with_it / without - 1 for with_it, without in zip(timed[name], timed["none"], strict=True)]


def in_row(model: str, name: str, found: float, step: float, size: float, note: str, cases: int) -> dict[str, Any]:
    """A row of the table; what is written at once has no bound."""
    outcome = "within 1 %" if found <= BOUND else "beyond 1 %"
    case = Case(name, [outcome if name == "beside" else "measured"])
    note = f"{found:.2%} of {EVERY} steps of {step * 1e3:.0f} ms; {note}; {size:.1f} MiB; {cases} rounds"
    return row("share", f"{model}, written {name}", [case], ("within 1 %", "measured"), note=note)


@contextmanager
def opened(tree: dict[str, Any], folder: Path) -> Iterator[Run]:
    """A run before its first step."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tree = {**tree, "data": {**tree["data"], "dir": str(folder / "images_classify")}}
        tree["train"] = {**tree["train"], "tensorboard": False}
        with join("cpu") as world, StopRequest() as stop, ExitStack() as held_open:
            run = Run(validate(tree, where="benchmark"), Path(place) / "run", world, stop, held_open)
            try:
                yield run
            finally:
                run.state.writer.close()
                run.log.close()


def first_batch(run: Run) -> list[Any]:
    """The micro-batches of a step; reading images is not what is measured."""
    batches = run.train_batches.epoch(0, 0)
    run.in_step.module.train()
    run.state.meter.start_epoch()
    run.state.meter.start()
    return [next(batches) for _ in range(run.config.train.accumulation)]


def timed_steps(run: Run, batch: list[Any], many: int) -> float:
    """Seconds that so many steps take."""
    began = time.perf_counter()
    for _ in range(many):
        # the schedule ends with the run
        run.state.step = 0
        run.take_step(batch)
    return time.perf_counter() - began


def hundred(run: Run, batch: list[Any], name: str) -> tuple[float, float]:
    """Seconds for 100 steps and what is saved before them; and those of them in which the loop stood still."""
    began = time.perf_counter()
    still = 0.0 if WRITERS[name] is None else stall(run, name)
    timed_steps(run, batch, EVERY)
    seconds = time.perf_counter() - began
    run.state.writer.finish()
    return seconds, still


def save(run: Run, batch: list[Any], name: str) -> float:
    """Seconds for which a step waits."""
    timed_steps(run, batch, 1)
    still = stall(run, name)
    run.state.writer.finish()
    return still


def stall(run: Run, name: str) -> float:
    """Saves; seconds until the next step may begin."""
    kind = WRITERS[name]
    assert kind is not None
    if type(run.state.writer) is not kind:
        run.state.writer.close()
        run.state.writer = kind()
    run.state.saved_at = None
    began = time.perf_counter()
    run.state.save_last()
    return time.perf_counter() - began
