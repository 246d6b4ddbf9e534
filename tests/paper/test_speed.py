"""Ways to shift and sum: each computes the same, one that does not gets no time, and what is said of both."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from acmix import ops
from acmix.benchmark import contestants
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.operators import PHASES
from acmix.ops.conv_path.cases import Case
from acmix.paper import speed

CASES = [
    Case("map", map_size=(2, 6, 5), heads=3, head_dim=4),
    Case("rolled", map_size=(2, 6, 5), heads=3, head_dim=4, shift=(2, 1)),
    Case("stride 2, no bias", map_size=(2, 7, 5), heads=2, head_dim=3, stride=2, bias=False),
    Case("dilated", map_size=(1, 7, 6), heads=2, head_dim=3, dilation=2),
]
CPU, CEILINGS = torch.device("cpu"), Ceilings({"fp32": 1e11}, 1e10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_way_computes_the_same(case: Case) -> None:
    tensors = speed.with_shifts(case, CPU)
    with ops.use("reference"):
        exact = speed.results(
            case.call, {name: each.detach().double().requires_grad_() for name, each in tensors.items()}, True
        )
    for way in speed.ways(case):
        found = speed.results(way.call, tensors, way.learns)
        assert ("grad kernels" in found) == way.learns
        for name, value in found.items():
            torch.testing.assert_close(value.double(), exact[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pairs_are_timed_and_a_wrong_way_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(speed.compare_ways(CASES[:1], 1, 0.01, CPU, CEILINGS))
    forward = [(each.peer, each.candidate) for each in found if each.subject.phase == PHASES[0]]
    assert forward == [
        ("explicit shifts", "grouped convolution, learned"),
        ("explicit shifts", "our kernel, learned"),
        ("grouped convolution, learned", "our kernel, learned"),
    ]
    backward = [(each.peer, each.candidate) for each in found if each.subject.phase == PHASES[1]]
    assert len(backward) == 6
    assert all(each.speed is not None for each in found)
    assert len(speed.verdict(found)) == 4
    right = speed.explicit_shifts
    monkeypatch.setattr(speed, "explicit_shifts", lambda *args, **kwargs: right(*args, **kwargs) * 1.01)
    wrong = list(speed.compare_ways(CASES[:1], 1, 0.01, CPU, CEILINGS))
    assert {each.speed is None for each in wrong if each.peer == "explicit shifts"} == {True}
    assert "WRONG" in speed.table(wrong)[0]
    assert not speed.verdict([each for each in wrong if each.peer == "explicit shifts"])


@pytest.mark.slow
def test_the_command_measures_and_writes(
    acmix: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [replace(case, map_size=(1, 4, 4)) for case in CASES[:1]]
    monkeypatch.setattr(speed, "shapes", lambda name: small)
    monkeypatch.setattr(speed, "NETWORKS", (speed.RESNET,))
    monkeypatch.setattr(speed, "measure_ceilings", lambda *_: CEILINGS)
    # the same network, narrower and with one bottleneck a stage: every kind of layer is there
    build = partial(contestants.build, layers=(1, 1, 1, 1), width=16)
    monkeypatch.setattr(contestants, "build", build)
    table = tmp_path / "speed.csv"
    status, said, errors = acmix("paper", "speed", "--batch-size", 4, "--img-size", 128, "--seconds", 1, "--csv", table)
    assert (status, errors) == (0, "")
    assert "explicit shifts take" in said
    assert "released form" in said
    with table.open(encoding="utf-8") as file:
        lines = {row["line"] for row in csv.DictReader(file)}
    assert lines == {"paper_shifts", "paper_networks"}
    status, said, errors = acmix("paper", "speed", "--img-size", 32)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert "expected at least 128" in errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--img-size", "99999999"], "--img-size 99999999 does not fit into this machine's"),
        (["--img-size", "127"], "--img-size 127"),
        (["--img-size", "9" * 400], "does not fit into this machine's"),
        (["--batch-size", "9" * 400], "does not fit into this machine's"),
        (["--batch-size", "0"], "batch size 0; expected at least one image"),
        (["--gpus", "0"], "--gpus 0; expected at least 1"),
        (["--gpus", "100000"], "100000 processes"),
        (["--seconds", "nan"], "--seconds nan; expected"),
        (["--seconds", "1e300"], "--seconds 1e+300; expected"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    options: list[str], said: str, acmix: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure_ceilings", lambda *_: pytest.fail("it measured"))
    status, output, errors = acmix("paper", "speed", *options)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert said in errors
