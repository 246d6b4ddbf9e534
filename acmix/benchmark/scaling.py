"""A model on one card and on N: the step that `steps` gives, in processes of its own, and the original recipe's table.

Without a GPU a "card" is an equal share of the processor's cores, for one process as for N: the efficiency compares
like with like.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acmix.benchmark.contestants import compare_networks, contestants, memory_suffices, subject_of
from acmix.benchmark.machine import PRODUCT_SECONDS, default_device, measure_ceilings
from acmix.benchmark.pairs import WARMUP_RUNS, Measurement, Speed, Subject, repeats_of, sample
from acmix.benchmark.record import counted, lines
from acmix.benchmark.steps import Setting, runner
from acmix.errors import UsageError

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget
    from acmix.train.distributed import World

PHASES = {"train": "training", "infer": "inference"}


@dataclass(frozen=True)
class Task:
    """What a process is told to measure.

    Args:
        name: of the model.
        phase, dtype, batch_size, img_size: as of a `Setting`.
        seconds: how long one process alone measures.
        until: instead of `seconds`: when all must be over, as `time.time` has it; 0 where nothing says.
        rounds, repeats: how often N processes step, so that all step equally often; 0 for one process alone.
        result: the file to write to.
    """

    name: str
    phase: str
    dtype: str
    batch_size: int
    img_size: int
    seconds: float
    until: float
    rounds: int
    repeats: int
    result: str

    def setting(self, device: torch.device) -> Setting:
        """How the model is run on a device."""
        return Setting(self.phase, self.dtype, self.batch_size, self.img_size, device)


def check_processes(processes: int) -> bool:
    """Refuses more processes than GPUs; whether the processes share the CPU."""
    from acmix.train.launch import check_processors

    if processes < 1:
        raise UsageError(f"{processes} processes; expected at least one")
    return bool(check_processors(processes))


def announce(processes: int, say: Callable[[str], object]) -> None:
    """Refuses more processes than GPUs; without a GPU, says what a card is."""
    from acmix.train.launch import threads_each

    if check_processes(processes):
        threads = threads_each(processes)
        among = f", alone and among {processes}" if processes > 1 else ""
        say(f"no GPU found: a card is {threads} CPU thread{'s'[: threads - 1]} here{among}")


def measure(
    name: str,
    setting: Setting,
    processes: int,
    seconds: float,
    say: Callable[[str], object] = print,
    budget: Budget | None = None,
) -> list[Measurement]:
    """Measures a model in one process, then in N at once.

    Args:
        name: of the model.
        setting: how it is run, on every card.
        processes: N.
        seconds: how long the one process measures; the N do as many steps.
        say: prints a line.
        budget: instead of `seconds`: one process gets a share of it, and N processes the next.

    Returns:
        One card's measurement and, where that is right, the N cards'.

    Raises:
        UsageError: a batch that does not fit into memory, or a process that failed.
    """
    from acmix.train.launch import threads_shared_out

    if budget is not None and not budget.begin(f"{name} {setting.dtype}, one card"):
        budget.leave_out(1)
        return []
    until = 0.0 if budget is None else time.time() + budget.share()
    task = Task(name, setting.phase, setting.dtype, setting.batch_size, setting.img_size, seconds, until, 0, 0, "")
    subject = subject_of(name, setting)
    with threads_shared_out(processes):
        told = in_processes(1, task, budget)
        speed = None if told["speed"] is None else Speed(**told["speed"])
        found = [
            Measurement(subject, told["candidate"], None, speed, tuple(told["wrong"]), told["machine"]),
        ]
        if speed is not None:
            again = replace(task, rounds=speed.rounds, repeats=repeats_of(speed.time_ms / 1000))
            if budget is not None:
                budget.doing(f"{name} {setting.dtype}, {processes} cards")
                again = replace(again, until=time.time() + budget.share())
            found.append(together(subject, found[0], in_processes(processes, again, budget), processes))
    for each in found:
        for line in lines(each):
            say(line)
    return found


def together(subject: Subject, single: Measurement, told: dict[str, Any], processes: int) -> Measurement:
    """N cards beside one. A step of theirs is N batches: the speed-up is one card's time for an image ÷ theirs."""
    assert single.speed is not None
    step = told["step_seconds"]
    images_per_second = processes * subject.images / step
    speed = Speed(
        rounds=single.speed.rounds,
        time_ms=1000 * step,
        images_per_second=images_per_second,
        speed_up=images_per_second / single.speed.images_per_second,
        peer_time_ms=single.speed.time_ms,
    )
    return Measurement(subject, f"{single.candidate}, {processes} cards", single.candidate, speed, (), told["machine"])


def in_processes(processes: int, task: Task, budget: Budget | None = None) -> dict[str, Any]:
    """Runs N measuring processes, of which the first tells how far it is; what it wrote."""
    from acmix.train.agent import Machines, run_workers

    with tempfile.TemporaryDirectory(prefix="acmix_benchmark_") as folder:
        result = Path(folder) / "result.json"
        told = json.dumps({**asdict(task), "result": str(result)})
        command = [sys.executable, "-m", "acmix.benchmark.scaling", told]
        with nullcontext() if budget is None else budget.handed_over():
            outcome = run_workers(processes, command, Machines(), grace_seconds=5)
        if outcome.status in (130, 143):
            raise SystemExit(outcome.status)
        if outcome.status:
            what = outcome.message or f"a measuring process ended with status {outcome.status}; its own words are above"
            raise UsageError(what)
        told = json.loads(result.read_text(encoding="utf-8"))
    if budget is not None:
        budget.finish(missing_seconds=told["missing_seconds"])
    return told


def recipe_table(measured: Sequence[Measurement], processes: int) -> list[str]:
    """The lines of the original recipe's table, in images a second; none where the result is wrong.

    Args:
        measured: of one model; the first is one card's, and the last N cards', where N is more than 1.
        processes: N.
    """
    from acmix.train.log import provenance

    if not measured:
        return []
    single, last = measured[0], measured[-1]
    if single.speed is None or (processes > 1 and last.speed is None):
        return []
    subject = single.subject
    device = default_device()
    cells = {
        "card": single.machine or provenance(device)["device"],
        "batch_size": str(subject.images),
        "Single Card": f"{single.speed.images_per_second:.1f}",
    }
    if processes > 1 and last.speed is not None:
        cells[f"{processes} Cards"] = f"{last.speed.images_per_second:.1f}"
    widths = {title: max(len(title), len(cell)) for title, cell in cells.items()}
    made = [
        f"{subject.name}, {subject.shape} px, {subject.dtype}: images/s in {PHASES[subject.phase]}, "
        f"median of {counted(single.speed.rounds, 'round')}",
        " | ".join(title.ljust(width) for title, width in widths.items()).rstrip(),
        "-|-".join("-" * width for width in widths.values()),
        " | ".join(cell.ljust(widths[title]) for title, cell in cells.items()).rstrip(),
    ]
    if processes > 1 and last.speed is not None and last.speed.speed_up is not None:
        made.append(f"scaling efficiency: {100 * last.speed.speed_up / processes:.0f} %")
    return made


def measure_here(task: Task) -> None:
    """A measuring process's work; the first process writes the result."""
    from acmix.train.distributed import join
    from acmix.train.log import provenance

    with join() as world, memory_suffices(task.name, task.batch_size), budget_of(task, world) as budget:
        setting = task.setting(world.device)
        if budget is not None:
            budget.doing(f"{task.name} {task.dtype}, {counted(world.size, 'card')}: building")
        ours = contestants(task.name, setting)[:1]
        found: dict[str, Any]
        if task.rounds:
            run, _ = runner(ours[0], setting, parallel(world, setting))
            found = {"step_seconds": time_together(run, task, world, budget)}
        else:
            ceilings = measure_ceilings(world.device, (task.dtype,), seconds=1.0 if task.until else PRODUCT_SECONDS)
            (measured,) = compare_networks(
                task.name,
                ours,
                [],
                setting,
                ceilings=ceilings,
                seconds=task.seconds,
                budget=budget,
                say=lambda line: None,
            )
            found = {key: asdict(measured)[key] for key in ("candidate", "speed", "wrong")}
        if world.is_first:
            found["machine"] = provenance(world.device)["device"]
            found["missing_seconds"] = 0.0 if budget is None else budget.missing_seconds
            Path(task.result).write_text(json.dumps(found), encoding="utf-8")


def budget_of(task: Task, world: World) -> AbstractContextManager[Budget | None]:
    """What is left of the command's time, as the first process tells it; nothing where there is no bound."""
    if not task.until:
        return nullcontext()
    from acmix.benchmark.budget import Budget

    return Budget(task.until - time.time(), shown=world.is_first)


def parallel(world: World, setting: Setting) -> Callable[[nn.Module], nn.Module]:
    """What lets the processes train one model."""
    from torch.nn.parallel import DistributedDataParallel

    if world.size == 1 or setting.phase != "train":
        return lambda model: model
    device_ids = None if world.device.type == "cpu" else [world.device]
    return partial(DistributedDataParallel, device_ids=device_ids, gradient_as_bucket_view=True)


def time_together(run: Callable[[], object], task: Task, world: World, budget: Budget | None = None) -> float:
    """Seconds of a step, the median over rounds; a round is over when the slowest process is through."""
    import torch.distributed as dist

    for _ in range(WARMUP_RUNS.get(world.device.type, 2) + 1):
        run()
    times = []
    for number in range(task.rounds):
        if budget is not None:
            budget.doing(f"{task.name} {task.dtype}, {counted(world.size, 'card')}", f"round {number + 1}")
        times.append(sample(run, task.repeats, world.device))
    seconds = torch.tensor(times, dtype=torch.float64)
    if world.size > 1:
        dist.all_reduce(seconds, dist.ReduceOp.MAX, group=world.control)
    return statistics.median(seconds.tolist())


def main() -> None:
    """Entry point of a measuring process."""
    from acmix.tools.guard import guarded

    guarded(lambda: measure_here(Task(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
