"""One way to do a thing, timed, or two ways timed in turn: A B A B …, and the ratio of times in each round.

A machine's speed drifts; two measurements of one round drift together, so their ratio stays. Nothing is timed before
it is found to compute what it should.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from acmix.benchmark.machine import Ceilings, peak_mib, synchronize

if TYPE_CHECKING:
    from acmix.benchmark.budget import Budget

LEAST_ROUNDS = 5
# a clock reading costs a microsecond, so that a sample of this length is exact to a thousandth
SAMPLE_SECONDS = 0.005
# A GPU's libraries try several kernels before they settle on one.
WARMUP_RUNS = {"cpu": 1, "cuda": 10}
# a run as long as this hides what a second warm-up would bring
LONG_SECONDS = 0.3
# onnxruntime's threads look for work for a while after a run: without it, PyTorch took 59 ms beside them, and 24 alone
SETTLE_SECONDS = 0.15


@dataclass(frozen=True)
class Candidate:
    """One side of a pair.

    Args:
        name: what tables call it.
        run: does the whole of what is timed, once.
        faults: compares what it computes and says in words what is wrong; empty where nothing is.
        flops: floating point operations of a run, where they are known.
        moved_bytes: bytes that a run has to read and write at least, where they are known.
        resident_mib: what it holds between runs: parameters, state of the optimizer.
    """

    name: str
    run: Callable[[], object]
    faults: Callable[[], Sequence[str]]
    flops: float | None = None
    moved_bytes: float | None = None
    resident_mib: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        name: an operator or a model.
        shape: its sizes, in words.
        dtype: "fp32" or "bf16".
        phase: "forward", "forward+backward", "infer" or "train".
        images: in a batch.
    """

    name: str
    shape: str
    dtype: str
    phase: str
    images: int


@dataclass(frozen=True)
class Speed:
    """What a right candidate reached, beside a right peer where it has one.

    Args:
        rounds: how many the medians are taken of.
        time_ms: median of a run.
        images_per_second: of the candidate.
        speed_up: median over the rounds of the peer's time ÷ the candidate's: above 1, the candidate is faster; None,
            as all that follows of the peer, where there is no peer.
        speed_up_low, speed_up_high: its quartiles.
        peer_time_ms: median of the peer's run.
        peak_mib, peer_peak_mib: memory at its highest during a run, what is held between runs included; None where
            the system does not tell.
        flops_share, bytes_share: the candidate's over what the machine's ceiling allows, 0 to 1, where known.
    """

    rounds: int
    time_ms: float
    images_per_second: float
    speed_up: float | None = None
    speed_up_low: float | None = None
    speed_up_high: float | None = None
    peer_time_ms: float | None = None
    peak_mib: float | None = None
    peer_peak_mib: float | None = None
    flops_share: float | None = None
    bytes_share: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What came of a candidate, alone or beside a peer: a speed, or what is wrong.

    Args:
        machine: where it was measured; None for this process.
    """

    subject: Subject
    candidate: str
    peer: str | None
    speed: Speed | None
    wrong: tuple[str, ...] = ()
    machine: str | None = None


def compare(
    subject: Subject,
    ours: Candidate,
    peer: Candidate | None = None,
    *,
    ceilings: Ceilings,
    device: torch.device,
    seconds: float,
    budget: Budget | None = None,
) -> Measurement:
    """Checks a candidate and its peer, and only then times them in turn; without a peer, the candidate alone.

    Args:
        subject: what both compute.
        ours, peer: A and B.
        ceilings: of this machine, measured in this process.
        device: where both run.
        seconds: how long the rounds last; at least five rounds are done.
        budget: instead of `seconds`: the pair gets its share of it, warm-up and all, and at least one round.

    Returns:
        The measurement; without a speed where a side is wrong.
    """
    sides = [ours] if peer is None else [ours, peer]
    name = None if peer is None else peer.name
    until = math.inf if budget is None else time.perf_counter() + budget.share()
    wrong = tuple(f"{each.name}: {fault}" for each in sides for fault in each.faults())
    if wrong:
        if budget is not None:
            budget.finish()
        return Measurement(subject, ours.name, name, None, wrong)
    runs = [each.run for each in sides]
    rounds = time_in_turn(runs, device=device, seconds=seconds, until=until, budget=budget)
    memory: list[float | None] = [None] * len(sides)
    if time.perf_counter() + sum(rounds[-1]) <= until:
        memory = [add(peak_mib(each.run, device), each.resident_mib) for each in sides]
    if budget is not None:
        budget.finish(missing_seconds=(LEAST_ROUNDS - len(rounds)) * sum(rounds[-1]))
    own = statistics.median(times[0] for times in rounds)
    ceiling = ceilings.flops_per_second.get(subject.dtype)
    speed = Speed(
        rounds=len(rounds),
        time_ms=1000 * own,
        images_per_second=subject.images / own,
        peak_mib=memory[0],
        flops_share=share(ours.flops, own, ceiling),
        bytes_share=share(ours.moved_bytes, own, ceilings.bytes_per_second),
    )
    if peer is not None:
        low, middle, high = quartiles([theirs / own for own, theirs in rounds])
        speed = replace(
            speed,
            speed_up=middle,
            speed_up_low=low,
            speed_up_high=high,
            peer_time_ms=1000 * statistics.median(theirs for _, theirs in rounds),
            peer_peak_mib=memory[1],
        )
    return Measurement(subject, ours.name, name, speed)


def time_in_turn(
    runs: Sequence[Callable[[], object]],
    *,
    device: torch.device,
    seconds: float,
    until: float = math.inf,
    budget: Budget | None = None,
    settle_seconds: float = 0.0,
) -> list[tuple[float, ...]]:
    """Seconds that a run of each took, round by round, after a warm-up.

    Args:
        runs: the sides.
        device: where they run.
        seconds: how long the rounds last; at least five are done.
        until: with a budget, when all must be over, as `time.perf_counter` has it; at least one round is done.
        budget: counts the rounds.
        settle_seconds: how long each side runs in every turn before it is timed. Threads of another library go on
            for a while after its run, waiting for the next, and would take the side's cores from it.
    """
    samples = [partial(sample, run, warmed_up(run, device, until), device) for run in runs]
    rounds: list[tuple[float, ...]] = []
    began = before = time.perf_counter()
    while True:
        if budget is not None:
            budget.doing(budget.work, f"round {len(rounds) + 1}")
        times = []
        for run, timed in zip(runs, samples, strict=True):
            settled = time.perf_counter() + settle_seconds
            while time.perf_counter() < settled:
                run()
            times.append(timed())
        rounds.append(tuple(times))
        now = time.perf_counter()
        # the next round and the run whose memory is measured must fit, too
        if budget is not None and now + (now - before) + sum(rounds[-1]) > until:
            return rounds
        if budget is None and len(rounds) >= LEAST_ROUNDS and now - began >= seconds:
            return rounds
        before = now


def warmed_up(run: Callable[[], object], device: torch.device, until: float = math.inf) -> int:
    """Runs it until it is at its speed, or short of time; how many runs make a sample long enough for the clock."""
    seconds = sample(run, 1, device)
    for _ in range(WARMUP_RUNS.get(device.type, 2)):
        # as much again, and a round of each side
        if time.perf_counter() + 4 * seconds > until:
            return repeats_of(seconds)
        seconds = sample(run, 1, device)
    if seconds < LONG_SECONDS:
        seconds = sample(run, 1, device)
    return repeats_of(seconds)


def repeats_of(seconds: float) -> int:
    """How many runs of so many seconds make a sample."""
    return max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))


def sample(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of a run, over several; by CUDA's own clock, where it runs there."""
    if device.type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(repeats):
            run()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1000 / repeats
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """A quarter, half and three quarters of the way through the sorted values; of one value that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def share(work: float | None, seconds: float, ceiling: float | None) -> float | None:
    """Work a second over its ceiling."""
    return None if work is None or ceiling is None else work / seconds / ceiling


def add(peak: float | None, resident: float) -> float | None:
    """The sum, where the first is known."""
    return None if peak is None else peak + resident
