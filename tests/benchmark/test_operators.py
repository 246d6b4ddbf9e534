"""Operators beside their peers, at small sizes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from acmix import cli
from acmix.benchmark.machine import Ceilings
from acmix.benchmark.operators import benchmark_operators, pairs, shapes
from acmix.benchmark.peers import PEERS
from acmix.benchmark.record import WRONG
from acmix.ops import dispatch
from acmix.ops.cases import Case
from acmix.ops.conv_path.cases import Case as ConvCase
from acmix.ops.local_attention.cases import Case as LocalCase
from acmix.ops.patchwise_attention.cases import Case as PatchwiseCase
from acmix.ops.window_attention.cases import Case as WindowCase

CPU = torch.device("cpu")
CEILINGS = Ceilings({"fp32": 1e11, "bf16": 1e11}, 1e10)
SMALL = [
    ConvCase("9x9 C 12 N 3 shift 3", map_size=(1, 9, 9), heads=3, shift=(3, 3)),
    ConvCase("9x9 C 8 N 4 stride 2", map_size=(1, 9, 9), heads=4, head_dim=2, stride=2, bias=False),
    WindowCase("14x14 C 12 N 3", map_size=(1, 14, 14), heads=3, window=(7, 7)),
    WindowCase("14x14 C 12 N 3 shift 3", map_size=(1, 14, 14), heads=3, window=(7, 7), shift=(3, 3)),
    LocalCase("9x9 C 8 N 4", map_size=(1, 9, 9), heads=4, head_dim=2, size=(7, 7)),
    LocalCase("9x9 C 8 N 4 stride 2", map_size=(1, 9, 9), heads=4, head_dim=2, size=(7, 7), stride=2),
    PatchwiseCase("9x9 C 12 N 3 size 3", map_size=(1, 9, 9), channels=12, groups=3),
    PatchwiseCase("9x9 C 16 N 2", map_size=(1, 9, 9), channels=16, size=(7, 7)),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"{shape.operator} {shape.name}")
def test_every_operator_has_peers_that_compute_the_same(shape: Case, dtype: str) -> None:
    found = list(pairs(shape, 2, dtype, CPU))
    assert {peer.name for _, peer, _ in found} >= set(PEERS[shape.operator])
    assert {subject.phase for _, _, subject in found} == {"forward", "forward+backward"}
    assert [fault for sides in found for each in sides[:2] for fault in each.faults()] == []
    assert all(ours.flops and ours.moved_bytes for ours, _, _ in found)


@pytest.mark.slow
def test_an_operator_is_measured_beside_each_of_its_peers() -> None:
    said: list[str] = []
    found = benchmark_operators(
        batch_size=1, seconds=0.0, at=SMALL[2:3], device=CPU, ceilings=CEILINGS, say=said.append
    )
    assert [each.wrong for each in found if each.speed is None] == []
    assert {each.peer for each in found} >= {"SDPA"}
    assert [line.startswith("    ") for line in said[: 3 * len(found)]] == [False, True, True] * len(found)


@pytest.fixture
def wrong_implementation(monkeypatch: pytest.MonkeyPatch) -> str:
    """An implementation whose output is a hundredth too large."""
    reference = dispatch.IMPLEMENTATIONS[-1]
    right = reference.operators["conv_path"]
    hasty = SimpleNamespace(
        forward=lambda arguments: right.forward(arguments) * 1.01, backward=right.backward, why_not=right.why_not
    )
    wrong = dispatch.Implementation("hasty", {**reference.operators, "conv_path": hasty})
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [wrong, reference])
    return wrong.name


def test_an_implementation_that_is_wrong_gets_no_speed(wrong_implementation: str) -> None:
    found = benchmark_operators(batch_size=1, seconds=0.0, at=SMALL[:1], device=CPU, ceilings=CEILINGS, say=len)
    assert {each.candidate for each in found} == {wrong_implementation}
    assert {each.speed for each in found} == {None}
    assert all("output is off by" in each.wrong[0] for each in found)


def test_a_wrong_result_ends_the_command_with_status_1(
    wrong_implementation: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "ops.csv"
    options = ["--operator", "conv_path", "--batch-size", "1", "--seconds", "1", "--csv", str(file)]
    for module in ("operators", "command"):
        monkeypatch.setattr(f"acmix.benchmark.{module}.shapes", lambda operator: SMALL[:1])
    monkeypatch.setattr(sys, "argv", ["acmix", "benchmark", "ops", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capfd.readouterr().out
    assert "results are wrong; no speed was measured of those" in said
    assert {row["speed_up"] for row in csv.DictReader(file.open(encoding="utf-8"))} == {WRONG}


def test_the_shapes_are_those_of_swin_and_resnet() -> None:
    assert [shape.name for shape in shapes("window_attention")][:3] == [
        "56x56 C 96 N 3",
        "56x56 C 96 N 3 shift 3",
        "28x28 C 192 N 6",
    ]
    assert [shape.name for shape in shapes("local_attention")][-2:] == ["14x14 C 512 N 4 stride 2", "80x80 C 64 N 4"]
    assert len(shapes("conv_path")) == len(shapes("window_attention")) + len(shapes("local_attention"))
    assert shapes("patchwise_attention")[0].name == "112x112 C 16 N 2 size 3"


@pytest.mark.slow
def test_without_an_argument_every_operator_is_measured_and_has_a_table(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {shape.operator: shape for shape in SMALL}
    assert small.keys() == set(dispatch.OPERATORS) == PEERS.keys()
    for module in ("operators", "command"):
        monkeypatch.setattr(f"acmix.benchmark.{module}.shapes", lambda operator: [small[operator]])
    monkeypatch.setattr("acmix.benchmark.command.measured_ceilings", lambda *_, **__: CEILINGS)
    # one round of every pair, however slow the machine is
    monkeypatch.setattr("acmix.benchmark.budget.Budget.share", lambda self: 0.0)
    monkeypatch.setattr("acmix.benchmark.budget.Budget.begin", lambda self, unit: True)
    monkeypatch.setattr(sys, "argv", ["acmix", "benchmark", "ops", "--batch-size", "1", "--seconds", "20"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    said = capfd.readouterr().out
    for operator in dispatch.OPERATORS:
        head, titles, figures = said[said.index(f"\n{operator}, fp32, 1 image:") :].splitlines()[1:4]
        assert "forward / forward with backward" in head
        assert [peer for peer in ("reference", *PEERS[operator]) if peer not in titles] == []
        assert small[operator].name in figures


@pytest.mark.parametrize("operator", dispatch.OPERATORS)
def test_every_operator_has_shapes_and_peers(operator: str) -> None:
    assert shapes(operator)
    assert PEERS[operator]
