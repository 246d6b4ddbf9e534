"""The parts of a step, measured on this machine: each process trains by itself, then they reduce without training.

What runs is the real loop of `acmix train`, one process alone in a world of its own, N of them at once: memory that
they share slows compute, and is not taken for communication. Then, with none of them training, reductions of several
sizes; then both at once, which tells what one costs the other. Means, as what a run takes is the sum of its steps.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from acmix.benchmark.loading import write_photographs
from acmix.benchmark.machine import synchronize
from acmix.benchmark.record import rounded
from acmix.benchmark.scale.parts import Parts, parts_of
from acmix.benchmark.scale.reductions import network_of
from acmix.benchmark.scale.step import MIB
from acmix.config import Config, dump, load
from acmix.errors import UsageError
from acmix.train.distributed import World, join
from acmix.train.log import provenance
from acmix.train.loop import Run
from acmix.train.signals import StopRequest
from acmix.train.step import usual_buckets

# steps whose batches are kept in memory, and photographs that are drawn where there are no data
KEPT, DRAWN = 4, 64
# figures of a mean; as many steps come before anything is timed
LEAST, MOST = 5, 200
# points of the curve of ready gradients
POINTS = 17


def measure_parts(config: Config, processes: int, *, seconds: float = 10.0) -> Parts:
    """Measures in N processes on this machine.

    Args:
        config: of the run; `data.dir` says where images are, "" has photographs drawn for classification.
        processes: N; 1 measures no network.
        seconds: how long each of the parts is measured, about; there are four.

    Raises:
        UsageError: what `acmix train` refuses, or a measuring process failed.
    """
    from acmix.train.agent import STOP_SIGNALS, Machines, run_workers
    from acmix.train.launch import threads_shared_out

    with tempfile.TemporaryDirectory(prefix="acmix_scale_") as name:
        folder = Path(name)
        if not config.data.dir:
            config = with_photographs(config, folder / "photographs")
        (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
        command = [sys.executable, "-m", "acmix.benchmark.scale.measure", str(folder), str(seconds)]
        with threads_shared_out(processes):
            outcome = run_workers(processes, command, Machines(), grace_seconds=5)
        if outcome.status in {128 + number for number in STOP_SIGNALS}:
            raise SystemExit(outcome.status)
        if outcome.status:
            what = f"a measuring process ended with status {outcome.status}; its own words are above"
            raise UsageError(outcome.message or what)
        return parts_of(json.loads((folder / "parts.json").read_text(encoding="utf-8")), "measured")


def with_photographs(config: Config, folder: Path) -> Config:
    """The configuration with photographs to read: a few are drawn, and stand in every class under several names."""
    if config.task.name != "classify":
        raise UsageError(f"task.name={config.task.name} needs images with annotations: add --data DIR")
    train, classes = config.train, config.model.num_classes
    wanted = max(KEPT * train.batch_size * train.accumulation, classes)
    write_photographs(folder / "drawn", min(DRAWN, wanted))
    drawn = sorted((folder / "drawn").rglob("*.JPEG"))
    for number in range(wanted):
        place = folder / "train" / f"class_{number % classes:06d}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(drawn[number % len(drawn)], place / f"{number}.JPEG")
    (folder / "val").symlink_to(folder / "train")
    return config.model_copy(update={"data": config.data.model_copy(update={"dir": str(folder)})})


@dataclass
class Passes:
    """Seconds of the forward and backward passes of a run's steps, and when gradients were there.

    Args:
        run: whose loss and backward are timed from here on.
    """

    run: Run
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    # of the last backward pass: bytes of a gradient, and seconds since its start
    ready: list[tuple[int, float]] = field(default_factory=list)
    began: Any = None

    def __post_init__(self) -> None:
        state = self.run.state
        vars(state.task)["loss"] = self.timed(state.task.loss, self.forward)
        vars(state.precision)["backward"] = self.timed(state.precision.backward, self.backward)
        for parameter in state.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.note)
        self.marks: list[tuple[int, Any]] = []

    def timed(self, work: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
        """The same work with its seconds noted."""

        def run(*arguments: Any) -> Any:
            self.marks = []
            synchronize(self.run.world.device)
            self.began = self.mark()
            began = time.perf_counter()
            result = work(*arguments)
            synchronize(self.run.world.device)
            times.append(time.perf_counter() - began)
            return result

        return run

    def mark(self) -> Any:
        """This moment on the device."""
        device = self.run.world.device
        if device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(device=device, enable_timing=True)
        event.record()
        return event

    def note(self, parameter: torch.Tensor) -> None:
        """Notes that a gradient is there."""
        self.marks.append((parameter.nbytes, self.mark()))

    def curve(self) -> list[list[float]]:
        """The points [share of the gradients, share of the backward pass], of the last step."""

        def since(mark: Any) -> float:
            return mark - self.began if isinstance(mark, float) else self.began.elapsed_time(mark) / 1000

        whole = self.backward[-1]
        sizes = np.cumsum([size for size, _ in self.marks])
        times = np.maximum.accumulate([min(1.0, since(mark) / whole) for _, mark in self.marks])
        shares = np.linspace(0, 1, POINTS)
        # a share is there with the gradient that completes it
        places = np.searchsorted(sizes / sizes[-1], shares - 1e-9)
        return np.stack([shares, times[places]], axis=1).round(4).tolist()


def steps(run: Run, groups: Sequence[list[Any]], seconds: float) -> list[float]:
    """Seconds of each step of the loop, without reading."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST or (time.perf_counter() - began < seconds and len(times) < MOST):
        synchronize(run.world.device)
        start = time.perf_counter()
        run.take_step(groups[len(times) % len(groups)])
        run.listen()
        synchronize(run.world.device)
        times.append(time.perf_counter() - start)
    return times


def deviation(times: Sequence[float]) -> float:
    """The standard deviation of a step's seconds by the differences of steps in a row, which a slow drift leaves out.

    For a normal distribution the mean difference is 2/√π deviations.
    """
    differences = [abs(after - before) for before, after in pairwise(times)]
    return statistics.fmean(differences) * np.pi**0.5 / 2 if differences else 0.0


def read(run: Run, seconds: float) -> tuple[list[list[Any]], float]:
    """Batches for some steps, and images a second of reading alone."""
    train = run.config.train
    kept: list[Any] = []
    wanted, batches, began = KEPT * train.accumulation, 0, 0.0
    for epoch in count():
        for batch in run.train_batches.epoch(epoch, 0):
            if len(kept) < wanted:
                kept.append(batch)
            if not began:
                # starting the reading processes is no part of their speed
                began = time.perf_counter()
                continue
            batches += 1
            if time.perf_counter() - began > seconds and len(kept) == wanted:
                passed = time.perf_counter() - began
                groups = [kept[first : first + train.accumulation] for first in range(0, wanted, train.accumulation)]
                return groups, batches * train.batch_size / passed
    raise AssertionError("epochs are without end")


def measured(run: Run, world: World, seconds: float) -> dict[str, Any]:
    """All parts, of one process."""
    config = run.config
    accumulation = config.train.accumulation
    groups, images_per_second = read(run, seconds)
    steps(run, groups, 0.0)
    meet(world)
    whole = steps(run, groups, seconds)
    gradients = sum(each.nbytes for each in run.state.model.parameters() if each.requires_grad)
    network: dict[str, Any] = {"cards_per_node": world.size}
    if world.size > 1:
        meet(world)

        def work(number: int) -> None:
            run.take_step(groups[number % len(groups)])
            synchronize(world.device)

        network |= network_of(world, gradients, work, statistics.fmean(whole), seconds)
        meet(world)
    passes = Passes(run)
    timed = steps(run, groups, seconds)
    forward, backward = statistics.fmean(passes.forward), statistics.fmean(passes.backward)
    # what timing the passes costs, where it waits for a GPU, is taken out again
    as_before = statistics.fmean(whole) / statistics.fmean(timed)
    forward, backward = forward * as_before, backward * as_before
    own = accumulation * (forward + backward)
    began = time.perf_counter()
    run.state.save_last()
    stall = time.perf_counter() - began
    run.state.finish_writing()
    every = config.train.checkpoint_every_steps or run.steps_per_epoch * config.train.checkpoint_every_epochs
    return {
        "compute": {
            "batch_size": config.train.batch_size,
            "accumulation": accumulation,
            "forward_ms": 1000 * forward,
            "backward_ms": 1000 * backward,
            "other_ms": 1000 * max(0.0, statistics.fmean(whole) - own),
            "deviation": deviation(whole) / own,
        },
        "gradients": {
            "mib": gradients / MIB,
            "bucket_mib": config.train.bucket_mib,
            "first_bucket_mib": 1.0 if usual_buckets(config.train) else config.train.bucket_mib,
            "ready": passes.curve(),
            "compression": 1.0 if config.train.gradient_compression is None else 0.5,
        },
        "network": network,
        "loader": {
            "images_per_second": images_per_second,
            "in_background": run.state.choices()["workers"] > 0,
        },
        "checkpoint": {"stall_ms": 1000 * stall, "every_steps": min(every, run.total_steps)},
    }


def meet(world: World) -> None:
    """Waits for the others."""
    if world.size > 1:
        dist.barrier(group=world.control)


def mean_of(values: Sequence[Any]) -> Any:
    """The means of numbers, of those in dictionaries and of those in lists; what is no number is the first's."""
    first = values[0]
    if isinstance(first, dict):
        return {key: mean_of([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [mean_of(each) for each in zip(*values, strict=True)]
    return rounded(statistics.fmean(values)) if isinstance(first, float) else first


def measure_here(folder: Path, seconds: float) -> None:
    """A measuring process's work; the first process writes the result."""
    config = load(folder / "config.yaml")
    quiet = config.train.model_copy(update={"tensorboard": False, "keep_checkpoints": 1})
    config = config.model_copy(update={"train": quiet})
    with join(config.train.device) as world, StopRequest() as stop, ExitStack() as held_open:
        alone = World(0, 1, world.device)
        run = Run(config, folder / f"run_{world.rank}", alone, stop, held_open)
        try:
            found: list[Any] = [measured(run, world, seconds)]
        finally:
            run.state.writer.close()
            run.log.close()
        if world.size > 1:
            own, found = found[0], [None] * world.size
            dist.all_gather_object(found, own, group=world.control)
        if world.is_first:
            made = provenance(world.device)
            torch_version, commit = made["versions"]["torch"], (made["commit"] or "")[:7]
            tree = {
                "title": f"{config.model.name}, batch {config.train.batch_size}, {made['device']}",
                "source": f"measured on {time.strftime('%Y-%m-%d')} in {world.size} processes, torch {torch_version}, "
                f"commit {commit or 'unknown'}; network.between is not measured",
                **mean_of(found),
            }
            (folder / "parts.json").write_text(json.dumps(tree), encoding="utf-8")


def main() -> None:
    """Entry point of a measuring process."""
    from acmix.tools.guard import guarded

    guarded(lambda: measure_here(Path(sys.argv[1]), float(sys.argv[2])))


if __name__ == "__main__":
    main()
