"""How fast a model trains or infers: on one card, and on N.

A training step is the training loop's own: mix the images, forward, loss, backward, clip, AdamW. The images are random
and lie in memory, so that reading and augmenting them is not part of the figure. Without a GPU a "card" is an equal
share of the processor's cores, for one process as for N: the efficiency compares like with like.
"""

from __future__ import annotations

import csv as csv_format
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from acmix import config
from acmix.errors import UsageError

# batch size (on a GPU that of the published recipe), steps to warm up, steps to time; a CPU's keep it under a minute
ON_GPU = (128, 20, 50)
ON_CPU = (4, 1, 3)
PHASES = {"train": "training", "infer": "inference"}


@dataclass(frozen=True)
class Row:
    """One model's speed, with what it takes to read the figures later.

    Args:
        model: its name.
        phase: "train" or "infer".
        card: the GPU, or the processor with the threads each process had.
        batch_size: images a card and step.
        img_size: side of the images in pixels.
        precision: number format of the matrix products.
        processes: N.
        steps: how many steps the median is taken of.
        single_images_per_second: one process alone.
        all_images_per_second: N processes together; None where N is 1.
        efficiency_percent: N processes against N times one; None where N is 1.
        commit: of this library, where it is a checkout.
        versions: of Python, torch and timm.
        date: when it was measured, UTC.
    """

    model: str
    phase: str
    card: str
    batch_size: int
    img_size: int
    precision: str
    processes: int
    steps: int
    single_images_per_second: float
    all_images_per_second: float | None
    efficiency_percent: float | None
    commit: str | None
    versions: str
    date: str


@dataclass(frozen=True)
class Case:
    """What a process is told to measure, and where to write what it measured."""

    model: str
    phase: str
    batch_size: int
    img_size: int
    precision: str
    warmup: int
    steps: int
    result: str


def benchmark_train(
    models: Sequence[str],
    *,
    phase: str = "train",
    processes: int = 1,
    batch_size: int | None = None,
    img_size: int = 224,
    steps: int | None = None,
    warmup: int | None = None,
    precision: str = "auto",
    csv: str | Path | None = None,
    say: Callable[[str], object] = print,
) -> list[Row]:
    """Times training steps on one process and then on N, and prints the table of the original recipe.

    Args:
        models: names that `acmix.create_model` knows.
        phase: "train", or "infer" for forward passes alone.
        processes: N, one a GPU; without GPUs, N processes share the cores.
        batch_size: images a process and step; 128 on a GPU and 4 on a CPU by default.
        img_size: side of the square images in pixels.
        steps: how many are timed; their median counts.
        warmup: steps before those.
        precision: "auto", "fp32", "bf16" or "fp16", as in training.
        csv: a file to write the rows to as well.
        say: prints a line.

    Returns:
        A row a model.

    Raises:
        UsageError: an unknown model, more processes than GPUs, a batch that does not fit into memory.
    """
    from acmix.train.launch import check_processors, threads_each, threads_shared_out

    default_batch_size, default_warmup, default_steps = ON_GPU if torch.cuda.is_available() else ON_CPU
    batch_size = default_batch_size if batch_size is None else batch_size
    steps, warmup = default_steps if steps is None else steps, default_warmup if warmup is None else warmup
    check_arguments(models, processes, batch_size, steps, img_size, precision)
    if check_processors(processes):
        threads = threads_each(processes)
        say(f"no GPU found: a card is {threads} CPU thread{'s'[: threads - 1]} here, alone and among {processes}")
    rows = []
    for name in models:
        case = Case(name, phase, batch_size, img_size, precision, warmup, steps, result="")
        with threads_shared_out(processes):
            single = measure(case, 1)
            together = measure(case, processes) if processes > 1 else None
        row = make_row(case, processes, single, together)
        rows.append(row)
        for line in table(row):
            say(line)
    if csv is not None:
        write_csv(rows, Path(csv))
        say(f"written to {csv}")
    return rows


def check_arguments(
    models: Sequence[str], processes: int, batch_size: int, steps: int, img_size: int, precision: str
) -> None:
    """Refuses what cannot be measured before anything is started."""
    from acmix.models import list_models
    from acmix.models.build import build_model

    if processes < 1 or steps < 1:
        raise UsageError(f"{processes} processes and {steps} steps; expected at least one of each")
    if batch_size < 2 or batch_size % 2:
        raise UsageError(f"batch size {batch_size}: mixup mixes images in pairs; choose an even number from 2 up")
    if not models:
        raise UsageError(f"no model to measure; for example {list_models()[0]}")
    for name in models:
        with torch.device("meta"):
            build_model(settings_of(name, img_size, batch_size, precision))


def settings_of(model: str, img_size: int, batch_size: int, precision: str) -> config.Config:
    """The training configuration that a measurement stands for: the published recipe's defaults."""
    tree = {
        "model": {"name": model},
        "data": {"img_size": img_size},
        "train": {"batch_size": batch_size, "precision": precision},
    }
    return config.validate(tree, where="benchmark")


def measure(case: Case, processes: int) -> dict[str, Any]:
    """Runs N measuring processes; what the first of them wrote."""
    from acmix.train.agent import Machines, run_workers

    with tempfile.TemporaryDirectory(prefix="acmix_benchmark_") as folder:
        result = Path(folder) / "result.json"
        told = json.dumps({**asdict(case), "result": str(result)})
        command = [sys.executable, "-m", "acmix.benchmark", told]
        outcome = run_workers(processes, command, Machines(), grace_seconds=5)
        if outcome.status in (130, 143):
            raise SystemExit(outcome.status)
        if outcome.status:
            what = outcome.message or f"a measuring process ended with status {outcome.status}; its own words are above"
            raise UsageError(what)
        return json.loads(result.read_text(encoding="utf-8"))


def make_row(case: Case, processes: int, single: dict[str, Any], together: dict[str, Any] | None) -> Row:
    """Images per second out of the two measurements."""
    single_speed = case.batch_size / single["step_seconds"]
    all_speed = processes * case.batch_size / together["step_seconds"] if together else None
    return Row(
        model=case.model,
        phase=case.phase,
        card=single["device"],
        batch_size=case.batch_size,
        img_size=case.img_size,
        precision=single["precision"],
        processes=processes,
        steps=case.steps,
        single_images_per_second=single_speed,
        all_images_per_second=all_speed,
        efficiency_percent=100 * all_speed / (processes * single_speed) if all_speed else None,
        commit=single["commit"],
        versions=" ".join(f"{name} {version}" for name, version in single["versions"].items()),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    )


def table(row: Row) -> list[str]:
    """The lines of the original recipe's table, in images per second."""
    cells = {
        "card": row.card,
        "batch_size": str(row.batch_size),
        "Single Card": f"{row.single_images_per_second:.1f}",
    }
    if row.all_images_per_second is not None:
        cells[f"{row.processes} Cards"] = f"{row.all_images_per_second:.1f}"
    widths = {title: max(len(title), len(cell)) for title, cell in cells.items()}
    phase = PHASES[row.phase]
    lines = [
        f"{row.model}, {row.img_size} px, {row.precision}: images/s in {phase}, median of {row.steps} steps",
        " | ".join(title.ljust(width) for title, width in widths.items()).rstrip(),
        "-|-".join("-" * width for width in widths.values()),
        " | ".join(cell.ljust(widths[title]) for title, cell in cells.items()).rstrip(),
    ]
    if row.efficiency_percent is not None:
        lines.append(f"scaling efficiency: {row.efficiency_percent:.0f} %")
    return lines


def write_csv(rows: list[Row], path: Path) -> None:
    """Writes one line a model under a line of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv_format.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        for row in rows:
            numbers = {key: round(value, 3) for key, value in asdict(row).items() if isinstance(value, float)}
            writer.writerow({**asdict(row), **numbers})


def measure_here(case: Case) -> None:
    """A measuring process's work: build, warm up, time, and, on the first process, write the result."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from acmix.models.build import build_model
    from acmix.tasks import Classification
    from acmix.train.distributed import join
    from acmix.train.log import provenance
    from acmix.train.optim import Precision, create_optimizer

    settings = settings_of(case.model, case.img_size, case.batch_size, case.precision)
    torch.manual_seed(0)
    with join() as world:
        model = build_model(settings).to(world.device)
        precision = Precision(case.precision, world.device)
        optimizer = create_optimizer(model, settings, case.batch_size * world.size)
        task, batch = Classification(settings), synthetic_batch(settings, world.device)
        in_step = model.train(case.phase == "train")
        if world.size > 1 and case.phase == "train":
            device_ids = [world.device] if world.device.type == "cuda" else None
            in_step = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)

        def step() -> None:
            with precision.autocast():
                loss = task.loss(in_step, batch)
            precision.backward(loss)
            precision.step(optimizer, model.parameters(), settings.train.clip_grad)

        def infer() -> None:
            with torch.no_grad(), precision.autocast():
                model(batch.images)

        run = step if case.phase == "train" else infer
        try:
            seconds = torch.tensor(time_steps(run, case.warmup, case.steps, world.device), dtype=torch.float64)
        except torch.OutOfMemoryError:
            raise UsageError(
                f"{case.model}: a batch of {case.batch_size} does not fit into memory; take less"
            ) from None
        if world.size > 1:
            # a step is over when the slowest process is through
            dist.all_reduce(seconds, dist.ReduceOp.MAX, group=world.control)
        if world.is_first:
            found = dict(step_seconds=statistics.median(seconds.tolist()), precision=precision.name)
            Path(case.result).write_text(json.dumps({**found, **provenance(world.device)}), encoding="utf-8")


def synthetic_batch(settings: config.Config, device: torch.device) -> Any:
    """Random images with random labels, as a loader hands them over."""
    from acmix.data import Batch

    rows, side = settings.train.batch_size, settings.data.img_size
    index = torch.arange(rows)
    return Batch(
        images=torch.randn(rows, settings.model.in_chans, side, side),
        targets=torch.randint(settings.model.num_classes, (rows,)),
        weights=torch.ones(rows),
        failed=torch.full_like(index, -1),
        index=index,
    ).to(device)


def time_steps(step: Callable[[], None], warmup: int, steps: int, device: torch.device) -> list[float]:
    """Seconds that each step took after the warm-up; a GPU is asked for its own clock and never waited for between."""
    for _ in range(warmup):
        step()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(steps):
            step()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(events)]


def main() -> None:
    """Entry point of a measuring process."""
    from acmix.train.launch import write_worker_error

    try:
        measure_here(Case(**json.loads(sys.argv[1])))
    except UsageError as error:
        if not write_worker_error(str(error)):
            print(f"acmix: error: {error}", file=sys.stderr)
        sys.exit(2)
