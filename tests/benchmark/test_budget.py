"""A benchmark's time: bounded as a whole, estimated before it begins, told while it passes. Nothing here is fast."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acmix.benchmark import command, estimate, machine
from acmix.benchmark.budget import Budget
from acmix.benchmark.machine import Ceilings, measure_ceilings, why_slow
from acmix.benchmark.pairs import Candidate, Subject, compare
from acmix.errors import UsageError
from tests.support.processes import module

CPU = torch.device("cpu")
FAST = Ceilings({"fp32": 2e11, "bf16": 4e11}, 1e10)
SLOW = Ceilings({"fp32": 2.4e11, "bf16": 6e9}, 1e10)
SUBJECT = Subject("sleep", "1", "fp32", "forward", 1)
SMALL = dict(batch_size=2, img_size=32)


def ceilings_are(ceilings: Ceilings) -> Callable[..., Ceilings]:
    return lambda *_, **__: ceilings


def sleeper(seconds: float) -> Candidate:
    return Candidate("ours", lambda: time.sleep(seconds), lambda: [])


def test_the_budget_is_shared_among_the_units_that_are_left() -> None:
    budget = Budget(90.0, units=3, shown=False)
    assert budget.share() == pytest.approx(30, abs=1)
    budget.finish()
    budget.leave_out(1)
    assert budget.share() == pytest.approx(90, abs=1)


def test_a_pair_keeps_its_share_and_at_least_one_round_is_done() -> None:
    began = time.monotonic()
    budget = Budget(1.0, shown=False)
    found = compare(SUBJECT, sleeper(0.1), sleeper(0.1), ceilings=FAST, device=CPU, seconds=60.0, budget=budget)
    assert time.monotonic() - began < 1.5
    assert found.speed is not None
    assert 1 <= found.speed.rounds < 5
    (remark,) = budget.remarks(5)
    assert "1 of 1 measurements had fewer than 5 rounds; give --seconds 5" in remark

    budget = Budget(0.0, shown=False)
    assert budget.begin("the first may always begin")
    found = compare(SUBJECT, sleeper(0.05), ceilings=FAST, device=CPU, seconds=60.0, budget=budget)
    assert found.speed is not None
    assert (found.speed.rounds, found.speed.peak_mib) == (1, None)
    assert not budget.begin("the second may not")
    assert "1 of 1 were left out" in budget.remarks(5)[0]


def test_progress_is_on_standard_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with Budget(5.0) as budget:
        budget.doing("checking")
        budget.doing("measuring", "round 1")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["checking · 0 s passed, at most 5 s left"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "infer", "ops"])
def test_a_format_that_is_emulated_is_left_out_with_the_reason(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measured_ceilings", ceilings_are(SLOW))
    monkeypatch.setattr(machine, "instructions", lambda: frozenset({"avx2"}))
    begun: list[str] = []
    monkeypatch.setattr(command, "benchmark_networks", lambda *_, **options: begun.extend(options["dtypes"]) or [])
    monkeypatch.setattr(command, "benchmark_operators", lambda *_, **options: begun.extend(options["dtypes"]) or [])

    def run(*dtypes: str, force: bool = False) -> list[str]:
        said: list[str] = []
        if what == "ops":
            command.operators(["conv_path"], dtypes=dtypes, batch_size=1, force=force, say=said.append)
        else:
            command.models(what, ["acmix_resnet26"], dtypes=dtypes, force=force, say=said.append, **SMALL)  # type: ignore[arg-type]
        return said

    reason = (
        "bf16 is left out: this processor has no bf16 products (avx512_bf16, amx_bf16), so PyTorch emulates them: its "
        "products reach 6 GFLOP/s, 40 times slower than fp32's 240 GFLOP/s; --force measures it nevertheless"
    )
    with pytest.raises(UsageError) as refused:
        run("bf16")
    assert str(refused.value) == reason
    assert begun == []
    assert reason in run("fp32", "bf16")
    assert begun == ["fp32"]
    run("bf16", force=True)
    assert begun == ["fp32", "bf16"]


def test_why_a_format_is_slow_is_what_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_slow("bf16", FAST, CPU) is None
    for known, words in (
        (frozenset({"avx512_bf16"}), "PyTorch does not use this processor's instructions for bf16"),
        (None, "PyTorch is slow in bf16 on this processor"),
    ):
        monkeypatch.setattr(machine, "instructions", lambda known=known: known)
        assert str(why_slow("bf16", SLOW, CPU)).startswith(words)
    assert str(why_slow("bf16", SLOW, torch.device("cuda"))).startswith("this card is slow in bf16")
    assert "6 GFLOP/s bf16" in str(SLOW)
    assert "0.12 GFLOP/s bf16" in str(Ceilings({"bf16": 1.2e8}, 1e10))


def test_a_slow_product_is_tried_no_larger_than_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []
    product = torch.mm

    def slow(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sides.append(len(a))
        time.sleep(0.01 * (len(a) / 256) ** 3)
        return product(a, b, out=out)

    monkeypatch.setattr(torch, "mm", slow)
    began = time.monotonic()
    rate = machine.product_rate(CPU, "fp32", 2048, 1.0)
    assert time.monotonic() - began < 5
    assert max(sides) == 512
    assert rate < 2 * 512**3 / 0.08


def test_a_step_too_long_is_refused_with_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measured_ceilings", ceilings_are(FAST))
    monkeypatch.setattr(command, "benchmark_networks", lambda *_, **__: pytest.fail("nothing is measured"))
    with pytest.raises(UsageError, match=r"a training step of 512 images takes about 1 min 8 s here") as refused:
        command.models("train", ["acmix_resnet26"], batch_size=512, seconds=30.0)
    wanted = float(str(refused.value).partition("give --seconds ")[2].partition(",")[0])
    monkeypatch.setattr(command, "benchmark_networks", lambda *_, **__: [])
    # what is advised is accepted
    assert command.models("train", ["acmix_resnet26"], batch_size=512, seconds=wanted, say=len)
    monkeypatch.setattr(command, "least_seconds", lambda *_: 400.0)
    with pytest.raises(UsageError, match="checking 4096 images and one round take about 6 min 40 s"):
        command.operators(["conv_path"], batch_size=4096, seconds=60.0, say=len)


@pytest.mark.slow
def test_the_estimate_counts_what_is_measured() -> None:
    def of(**options: object) -> estimate.Estimate:
        told = dict(phase="infer", dtypes=["fp32"], peers=0, ceilings=FAST, **SMALL) | options
        return estimate.estimate(["acmix_resnet26"], **told)  # type: ignore[arg-type]

    assert of().units == 2, "as it is, and folded"
    assert of(peers=3, compiled=True).units == 12
    assert of(phase="train").units == 1
    assert of(phase="train", processes=2).units == 2
    assert of(phase="train").step_seconds == pytest.approx(3 * of().step_seconds)
    assert of(batch_size=4).step_seconds == pytest.approx(2 * of().step_seconds)
    assert of(processes=2).least_seconds > 2 * estimate.START
    assert of(compiled=True).least_seconds > of().least_seconds + 2 * estimate.COMPILE
    with pytest.raises(UsageError, match=r"compiling about 3 min 0 s, too long for --seconds 60; give --seconds \d+"):
        of(compiled=True).check(60.0, "infer", 2)
    with pytest.raises(UsageError, match="starting processes about 20 s, too long for --seconds 10"):
        of(phase="train", processes=2).check(10.0, "train", 2)
    assert estimate.forward_flops("no_such_model", 224) == 0.0


def test_ceilings_stay_within_a_short_time() -> None:
    began = time.monotonic()
    assert measure_ceilings(CPU, ("fp32", "bf16"), seconds=0.05).flops_per_second["bf16"] > 0
    assert time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="limits the instructions of an x86 processor")
def test_a_real_process_without_bf16_products_says_so_and_ends_at_once(tmp_path: Path) -> None:
    """oneDNN is told to take AVX2, which has none."""
    options = ["train", "acmix_resnet26", "--dtype", "bf16", "--batch-size", "2", "--img-size", "32"]
    done = module("acmix", "benchmark", *options, ONEDNN_MAX_CPU_ISA="AVX2")
    assert done.status == 2
    assert "acmix: error: bf16 is left out: " in done.errors
    assert "times slower than fp32's" in done.errors


@pytest.mark.slow
def test_seconds_bound_a_command_with_everything_in_it(tmp_path: Path) -> None:
    said: list[str] = []
    began = time.monotonic()
    options = dict(against=["plain"], seconds=6.0, csv=tmp_path / "figures.csv", say=said.append, **SMALL)
    assert command.models("infer", ["acmix_resnet26"], **options)  # type: ignore[arg-type]
    assert time.monotonic() - began < 40, "two pairs, of which the last had begun"
    assert said[1].startswith("2 measurements, about ")
    assert any("speed-up over plain: " in line and "time for an image, plain ÷ acmix" in line for line in said)
