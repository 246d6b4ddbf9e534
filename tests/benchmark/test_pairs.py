"""Measurements alone and in pairs: what is wrong has no speed. Nothing here asserts a time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from acmix.benchmark.machine import Ceilings, measure_ceilings, peak_mib
from acmix.benchmark.pairs import LEAST_ROUNDS, Candidate, Measurement, Subject, compare, time_in_turn
from acmix.benchmark.record import WRONG, lines

CPU = torch.device("cpu")
CEILINGS = Ceilings({"fp32": 1e11, "bf16": 1e11}, 1e10)
SUBJECT = Subject("sum", "8", "fp32", "forward", 2)


def measure(ours: Candidate, peer: Candidate | None) -> Measurement:
    return compare(SUBJECT, ours, peer, ceilings=CEILINGS, device=CPU, seconds=0.0)


def right(name: str, **known: float) -> Candidate:
    x = torch.ones(8)
    return Candidate(name, lambda: x.sum(), lambda: [], **known)


def never() -> None:
    raise AssertionError("a wrong candidate is not run")


@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_with_a_wrong_side_is_not_timed_and_no_speed_is_printed(side: int) -> None:
    sides = [replace(right("ours"), run=never), replace(right("peer"), run=never)]
    sides[side] = replace(sides[side], faults=lambda: ["output is off by 1.0"])
    found = measure(*sides)
    assert found.speed is None
    assert found.wrong == (f"{sides[side].name}: output is off by 1.0",)
    said = "\n".join(lines(found))
    assert WRONG in said
    assert "ms" not in said


@pytest.mark.slow
def test_a_pair_has_a_ratio_between_its_quartiles_and_shares_of_the_ceilings() -> None:
    speed = measure(right("a", flops=1e6, moved_bytes=1e4), right("a")).speed
    assert speed is not None
    assert speed.rounds >= LEAST_ROUNDS
    assert speed.speed_up_low
    assert speed.speed_up
    assert speed.speed_up_high
    assert 0 < speed.speed_up_low <= speed.speed_up <= speed.speed_up_high
    assert speed.images_per_second == pytest.approx(2 / (speed.time_ms / 1000))
    assert speed.flops_share == pytest.approx(1e6 / (speed.time_ms / 1000) / 1e11)
    assert speed.bytes_share == pytest.approx(1e4 / (speed.time_ms / 1000) / 1e10)


def test_both_sides_take_turns() -> None:
    turns: list[str] = []
    rounds = time_in_turn([lambda: turns.append("a"), lambda: turns.append("b")], device=CPU, seconds=0.0)
    assert len(rounds) == LEAST_ROUNDS
    # the repeats of a sample fall together
    blocks = [turn for before, turn in pairwise(turns) if turn != before]
    assert "".join(blocks[-9:]) == "bababab" + "ab"


@pytest.mark.slow
def test_ceilings_are_finite_and_peak_memory_sees_what_is_allocated() -> None:
    ceilings = measure_ceilings(CPU)
    assert math.isfinite(ceilings.flops_per_second["fp32"])
    assert ceilings.flops_per_second["fp32"] > 0 < ceilings.bytes_per_second
    peak = peak_mib(lambda: torch.ones(16 * 2**20), CPU)
    assert peak is None or 60 < peak < 80


@pytest.mark.slow
def test_without_a_peer_the_same_is_checked_and_measured() -> None:
    alone, paired = (measure(right("a", flops=1e6, moved_bytes=1e4), peer) for peer in (None, right("b")))
    assert alone.speed is not None
    assert paired.speed is not None
    assert (alone.peer, alone.speed.speed_up, alone.speed.peer_time_ms) == (None, None, None)
    known = {key for key, value in vars(paired.speed).items() if value is not None}
    assert {key for key in known if "speed_up" not in key and "peer" not in key} == {
        key for key, value in vars(alone.speed).items() if value is not None
    }
    wrong = measure(replace(right("a"), run=never, faults=lambda: ["output is off by 1.0"]), None)
    assert (wrong.speed, wrong.wrong) == (None, ("a: output is off by 1.0",))


def test_a_side_runs_alone_before_it_is_timed() -> None:
    disturbed = 0.0

    def disturbing() -> None:
        nonlocal disturbed
        disturbed = time.perf_counter() + 0.05

    def disturbable() -> None:
        time.sleep(0.02 if time.perf_counter() < disturbed else 0.001)

    slow = time_in_turn([disturbing, disturbable], device=CPU, seconds=0.0)
    assert min(theirs for _, theirs in slow) > 0.01
    alone = time_in_turn([disturbing, disturbable], device=CPU, seconds=0.0, settle_seconds=0.1)
    assert max(theirs for _, theirs in alone) < 0.01
