"""Paired measurements: what is wrong has no speed, and figures go where they are told. Nothing here asserts a time."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import acmix
from acmix import cli, ops
from acmix.benchmark import benchmark_data, benchmark_networks, command, where
from acmix.benchmark.machine import Ceilings, measure_ceilings, peak_mib
from acmix.benchmark.networks import Contestant, Setting, faults
from acmix.benchmark.operators import Shape, benchmark_operators, pairs, shapes
from acmix.benchmark.pairs import LEAST_ROUNDS, Candidate, Measurement, Speed, Subject, compare, time_pair
from acmix.benchmark.peers import PEERS
from acmix.benchmark.record import COLUMNS, WRONG, lines, rows, write_rows
from acmix.errors import UsageError
from acmix.ops import dispatch
from acmix.testing.judge import truth_of

CPU = torch.device("cpu")
CEILINGS = Ceilings({"fp32": 1e11, "bf16": 1e11}, 1e10)
SUBJECT = Subject("sum", "8", "fp32", "forward", 2)
SMALL = [
    Shape("conv_path", 9, 12, 3, shift=3),
    Shape("conv_path", 9, 8, 4, stride=2, bias=False),
    Shape("window_attention", 14, 12, 3),
    Shape("window_attention", 14, 12, 3, shift=3),
    Shape("local_attention", 9, 8, 4),
    Shape("local_attention", 9, 8, 4, stride=2),
]


def measure(ours: Candidate, peer: Candidate) -> Measurement:
    return compare(SUBJECT, ours, peer, ceilings=CEILINGS, device=CPU, seconds=0.0)


def right(name: str, **known: float) -> Candidate:
    x = torch.ones(8)
    return Candidate(name, lambda: x.sum(), lambda: [], **known)


def never() -> None:
    raise AssertionError("a wrong candidate is not run")


# --- the engine -----------------------------------------------------------------------------------------------------


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


def test_a_pair_has_a_ratio_between_its_quartiles_and_shares_of_the_ceilings() -> None:
    speed = measure(right("a", flops=1e6, moved_bytes=1e4), right("a")).speed
    assert speed is not None
    assert speed.rounds >= LEAST_ROUNDS
    assert 0 < speed.ratio_low <= speed.ratio <= speed.ratio_high
    assert speed.images_per_second == pytest.approx(2 / (speed.time_ms / 1000))
    assert speed.flops_share == pytest.approx(1e6 / (speed.time_ms / 1000) / 1e11)
    assert speed.bytes_share == pytest.approx(1e4 / (speed.time_ms / 1000) / 1e10)


def test_both_sides_take_turns() -> None:
    turns: list[str] = []
    rounds = time_pair(lambda: turns.append("a"), lambda: turns.append("b"), device=CPU, seconds=0.0)
    assert len(rounds) == LEAST_ROUNDS
    # the repeats of a sample fall together
    blocks = [turn for before, turn in pairwise(turns) if turn != before]
    assert "".join(blocks[-9:]) == "bababab" + "ab"


def test_ceilings_are_finite_and_peak_memory_sees_what_is_allocated() -> None:
    ceilings = measure_ceilings(CPU)
    assert math.isfinite(ceilings.flops_per_second["fp32"])
    assert ceilings.flops_per_second["fp32"] > 0 < ceilings.bytes_per_second
    peak = peak_mib(lambda: torch.ones(16 * 2**20), CPU)
    assert peak is None or 60 < peak < 80


# --- right and wrong ------------------------------------------------------------------------------------------------


def test_twice_the_reference_s_error_is_right_for_an_output_and_three_times_for_a_gradient() -> None:
    exact = {"output": torch.ones(3).double(), "grad x": torch.ones(3).double()}
    truth = truth_of(exact, {name: value + 1e-3 for name, value in exact.items()}, torch.float32)
    assert truth.faults({"output": exact["output"] + 1.9e-3, "grad x": exact["grad x"] + 2.9e-3}) == []
    (fault,) = truth.faults({"output": exact["output"] + 2.1e-3, "grad x": exact["grad x"]})
    assert fault.startswith("output is off by 2.1e-03")
    (fault,) = truth.faults({"output": exact["output"], "grad x": exact["grad x"] + 3.1e-3})
    assert fault.startswith("grad x is off by")


@pytest.mark.parametrize("found", [{}, {"output": torch.ones(2)}, {"output": torch.full((3,), float("nan"))}], ids=str)
def test_what_is_missing_misshapen_or_not_finite_is_wrong(found: dict[str, Tensor]) -> None:
    exact = {"output": torch.ones(3).double()}
    assert len(truth_of(exact, exact, torch.float32).faults(found)) == 1


def test_a_gradient_that_is_zero_but_for_rounding_is_judged_beside_the_largest() -> None:
    exact = {"output": torch.ones(2).double(), "grad a": torch.ones(2).double(), "grad b": torch.full((2,), 1e-17)}
    truth = truth_of(exact, exact, torch.float32)
    assert truth.faults({**exact, "grad b": torch.full((2,), 1e-8)}) == []
    assert len(truth.faults({**exact, "grad b": torch.full((2,), 1e-3)})) == 1


def test_a_gradient_of_one_number_is_judged_beside_the_largest_of_one_number() -> None:
    exact = {"output": torch.ones(2).double(), "grad a": torch.ones(1).double(), "grad b": torch.full((1,), 1e-5)}
    truth = truth_of(exact, exact, torch.float32)
    assert truth.faults({**exact, "grad b": exact["grad b"] + 1e-7}) == []
    assert len(truth.faults({**exact, "grad b": exact["grad b"] + 1e-3})) == 1


# --- operators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: f"{shape.operator} {shape}")
def test_every_operator_has_peers_that_compute_the_same(shape: Shape, dtype: str) -> None:
    found = list(pairs(shape, 2, dtype, CPU))
    assert {peer.name for _, peer, _ in found} >= set(PEERS[shape.operator])
    assert {subject.phase for _, _, subject in found} == {"forward", "forward+backward"}
    assert [fault for sides in found for each in sides[:2] for fault in each.faults()] == []
    assert all(ours.flops and ours.moved_bytes for ours, _, _ in found)


def test_an_operator_is_measured_beside_each_of_its_peers() -> None:
    said: list[str] = []
    found = benchmark_operators(
        batch_size=1, seconds=0.0, at=SMALL[2:3], device=CPU, ceilings=CEILINGS, say=said.append
    )
    assert [each.wrong for each in found if each.speed is None] == []
    assert {each.peer for each in found} >= {"SDPA"}
    assert len(said) == 2 * len(found)


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
    options = ["--operator", "conv_path", "--batch-size", "1", "--seconds", "0", "--csv", str(file)]
    monkeypatch.setattr("acmix.benchmark.operators.shapes", lambda operator: SMALL[:1])
    monkeypatch.setattr(sys, "argv", ["acmix", "benchmark", "ops", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capfd.readouterr().out
    assert "results are wrong; no speed was measured of those" in said
    assert {row["ratio"] for row in csv.DictReader(file.open(encoding="utf-8"))} == {WRONG}


def test_the_shapes_are_those_of_swin_and_resnet() -> None:
    assert [str(shape) for shape in shapes("window_attention")][:3] == [
        "56x56 C 96 N 3",
        "56x56 C 96 N 3 shift 3",
        "28x28 C 192 N 6",
    ]
    assert [str(shape) for shape in shapes("local_attention")][-2:] == ["14x14 C 512 N 4 stride 2", "80x80 C 64 N 4"]
    assert len(shapes("conv_path")) == len(shapes("window_attention")) + len(shapes("local_attention"))


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "peers"), [("infer", ["timm", "plain", "reference"]), ("train", ["reference"])])
def test_a_model_is_measured_beside_its_peers(phase: str, peers: list[str]) -> None:
    found = benchmark_networks(
        ["acmix_resnet26"],
        phase=phase,
        against=peers,
        batch_size=2,
        img_size=32,
        seconds=0.0,
        device=CPU,
        ceilings=CEILINGS,
        say=len,
    )
    assert [each.wrong for each in found if each.speed is None] == []
    assert [each.peer for each in found if each.candidate == "acmix"] == peers


def test_where_the_time_goes_is_told_and_drawn(tmp_path: Path) -> None:
    said: list[str] = []
    plot = tmp_path / "new" / "where.png"
    settings = dict(phase="infer", batch_size=1, img_size=32, plot=plot, device=CPU, say=said.append)
    assert benchmark_networks(["acmix_resnet26"], against=[], **settings) == []  # type: ignore[arg-type]
    assert plot.stat().st_size > 1000
    assert any(line.startswith("convolution path") for line in said)


def test_a_model_that_computes_something_else_is_wrong() -> None:
    setting = Setting("infer", "fp32", 2, 32, CPU)
    torch.manual_seed(0)
    original, other = (acmix.create_model("acmix_resnet26", num_classes=10) for _ in range(2))
    assert faults(Contestant("same", original, original=original), setting) == []
    (fault,) = faults(Contestant("other", other, original=original), setting)
    assert fault.startswith("output is off by")


def test_an_operator_s_parts_count_as_the_operator() -> None:
    pieces, fc, kernels = torch.randn(1, 6, 6, 6, 4), torch.randn(9, 6), torch.randn(8, 9, 3, 3)
    with ops.use("reference"):
        spent = where.time_by_group(lambda: ops.conv_path(pieces, fc, None, kernels), CPU, runs=1)
    assert spent["convolution path"] > 0
    assert spent["convolutions"] == spent["matrix products"] == 0
    spent = where.time_by_group(lambda: torch.nn.functional.linear(fc, torch.eye(6)).relu(), CPU, runs=1)
    assert spent["matrix products"] > 0 < spent["activations"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(names=["resnet50"], against=["timm"]), "no model 'resnet50' in this library"),
        (dict(names=[], against=["natten"]), "no peer 'natten'; there are timm, plain, reference"),
        (dict(names=[], against=["timm"], processes=2), "pairs are measured on one card"),
        (dict(names=[], against=["timm"], batch_size=0), "batch size 0; expected at least one image"),
        (dict(names=[], dtypes=["fp8"]), "--dtype fp8; there are fp32, bf16"),
        (dict(names=[], dtypes=["fp32", "bf16"]), "one --dtype is measured at a time"),
        (dict(names=[], compiled=True), "add --against timm"),
    ],
    ids=str,
)
def test_options_that_cannot_be_measured_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        command.models("train", **options)


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_line_that_is_measured_again_replaces_its_rows_and_leaves_the_others(tmp_path: Path) -> None:
    speed = Speed(5, 2.0, 1.5, 2.5, 1.0, 2.0, 2000.0, None, None, None, 0.123456)
    found = [Measurement(SUBJECT, "ours", "peer", speed), Measurement(SUBJECT, "ours", "peer", None, ("no",))]
    file = tmp_path / "new" / "speed.csv"
    for line in ("a", "b"):
        write_rows(rows(found, line=line, device=CPU), file, replace_lines=[line])
    write_rows(rows(found[:1], line="a", device=CPU), file, replace_lines=["a"])
    written = list(csv.DictReader(file.open(encoding="utf-8")))
    assert list(written[0]) == list(COLUMNS)
    assert [row["line"] for row in written] == ["b", "b", "a"]
    assert [row["ratio"] for row in written] == ["2.0", WRONG, "2.0"]
    assert (written[0]["bytes_share"], written[0]["peak_mib"], written[1]["time_ms"]) == ("0.1235", "", "")
    assert {each.name for each in fields(Speed)} < set(COLUMNS)


def test_real_jpeg_files_are_read() -> None:
    said: list[str] = []
    assert benchmark_data(images=8, batch_size=2, img_size=32, workers=0, seconds=0.0, say=said.append) > 0
    assert "0 reading processes" in said[0]
    with pytest.raises(UsageError, match="expected at least two batches"):
        benchmark_data(images=4, batch_size=4)
