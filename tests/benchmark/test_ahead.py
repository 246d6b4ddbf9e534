"""Kernels compiled ahead of time: what a target holds, which bytes launches move, and that compiling tells figures."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from acmix import create_model
from acmix.benchmark.ahead.command import LEAST_PROGRAMS, summary
from acmix.benchmark.ahead.launches import bytes_of, described, of_call
from acmix.benchmark.ahead.roofline import Ledger, costs_of
from acmix.benchmark.ahead.targets import TARGETS
from acmix.ops.dispatch import OPERATORS
from tests.support.paths import ROOT
from tests.support.processes import module, python


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "programs"),
    [
        # 65,536 registers, 64 warps, 32 programs a multiprocessor
        ("sm_90", 4, 128, 0, 4),
        ("sm_90", 4, 129, 0, 3),
        ("sm_90", 4, 255, 0, 2),
        ("sm_90", 8, 255, 0, 1),
        ("sm_90", 1, 32, 0, 32),
        ("sm_90", 4, 32, 0, 16),
        # 1 KiB of shared memory more for each program
        ("sm_90", 4, 32, 113 * 1024, 2),
        ("sm_80", 4, 32, 113 * 1024, 1),
        # 512 registers of 64 lanes in each of four parts, 8 warps there at most
        ("gfx942", 4, 128, 0, 4),
        ("gfx942", 4, 40, 0, 8),
        ("gfx942", 4, 256, 0, 2),
        ("gfx942", 4, 40, 20 * 1024, 3),
        ("gfx942", 4, 513, 0, 0),
    ],
)
def test_programs_of_a_multiprocessor(target: str, warps: int, registers: int, shared: int, programs: int) -> None:
    assert TARGETS[target].programs_per_multiprocessor(warps, registers, shared) == programs


def test_a_repeated_dimension_counts_once() -> None:
    assert bytes_of(torch.empty(3, 4, device="meta")) == 48
    assert bytes_of(torch.empty(1, 4, device="meta").expand(3, 4)) == 16
    assert bytes_of(torch.empty(0, 4, device="meta")) == 0


@pytest.mark.parametrize("operator", list(OPERATORS))
def test_launches_move_at_least_the_operators_own_bytes(operator: str) -> None:
    for case in OPERATORS[operator].parts["cases"].NETWORKS:
        arguments = described(case, torch.bfloat16, 2)
        for phase, (least, moved, work) in costs_of(operator, arguments).items():
            assert 0 < least <= moved + 4096, (case.name, phase)
            assert work > 0
        forward, backward = of_call(operator, arguments)
        assert forward
        assert backward


def test_a_step_adds_up_its_nodes() -> None:
    x = torch.empty(8, 16, device="meta")
    with Ledger() as ledger:
        (x @ x.T).relu()
    # a view moves nothing; 8·16 numbers read once, 8·8 written
    assert ledger.rows["products"][:3] == [2 * 512 + 256, 2 * 512 + 256, 8 * 8 * 16]
    assert ledger.rows["passes over memory"][:2] == [512, 512]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["acmix_swin_tiny_patch4_window7_224", "acmix_resnet26", "acmix_san10"])
def test_a_step_of_a_network_counts_its_operators(name: str) -> None:
    """PyTorch leaves out arguments that are given as their defaults; both directions of every operator are counted."""
    model = create_model(name, device="meta", dtype=torch.bfloat16, num_classes=10).train()
    with Ledger() as ledger:
        forward = model(torch.empty(2, 3, 224, 224, dtype=torch.bfloat16, device="meta"))
        of_forward = {what: row[2] for what, row in ledger.rows.items() if what in OPERATORS}
        forward.sum().backward()
    assert "conv_path" in of_forward
    assert len(of_forward) == 2
    for what, work in of_forward.items():
        # a gradient of each side of a product
        assert ledger.rows[what][2] >= 2.5 * work > 0


def test_the_summary_takes_the_best_choice_of_each_launch_and_the_worst_launch() -> None:
    row = {
        "operator": "o",
        "kernel": "k",
        "shape": "a",
        "dtype": "bfloat16",
        "target": "sm_90",
        "warps": 4,
        "stages": 2,
    }
    figures = {"shared_bytes": 0, "programs_per_multiprocessor": 2}
    rows = [
        {**row, "registers": 255, "spill_bytes": 8, **figures},
        {**row, "warps": 8, "registers": 100, "spill_bytes": 0, **figures},
        {**row, "shape": "b", "registers": 130, "spill_bytes": 0, **figures},
        {**row, "kernel": "l", "registers": 96, "spill_bytes": 0, **figures},
    ]
    lines = list(summary(rows))[1:]
    assert [line.split()[:7] for line in lines] == [
        ["o", "k", "bfloat16", "sm_90", "130", "0", "2"],
        ["o", "l", "bfloat16", "sm_90", "96", "0", "2"],
    ]
    assert ["beyond the aim" in line for line in lines] == [True, False]


def saved() -> list[dict[str, str]]:
    """The rows of the saved table."""
    with (ROOT / "benchmarks" / "results" / "gpu_ahead.csv").open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_no_saved_choice_spills_and_each_fits_twice() -> None:
    rows = saved()
    assert {row["target"] for row in rows} == set(TARGETS)
    assert [row for row in rows if row["error"] or row["spill_bytes"] != "0"] == []
    # a program of 8 warps fills half of gfx942's registers where one of 4 is there twice
    least = {target: LEAST_PROGRAMS if target.startswith("sm_") else 1 for target in TARGETS}
    assert [row for row in rows if int(row["programs_per_multiprocessor"]) < least[row["target"]]] == []


CHOICES = """
import torch
from acmix.benchmark.ahead.compiled import choices_of
from acmix.benchmark.ahead.launches import described, of_call
from acmix.ops.dispatch import OPERATORS
for name, operator in OPERATORS.items():
    for case in operator.parts["cases"].NETWORKS:
        for launches in of_call(name, described(case, torch.bfloat16, 2)):
            for launch in launches:
                for choice in choices_of(launch):
                    print(name, launch.function.__name__, case.name, choice.num_warps, choice.num_stages, sep=",")
"""


@pytest.mark.slow
def test_the_saved_choices_are_those_of_today() -> None:
    told = python(CHOICES, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    assert told.status == 0, told.errors[-2000:]
    columns = ("operator", "kernel", "shape", "warps", "stages")
    for target in TARGETS:
        rows = {",".join(row[name] for name in columns) for row in saved() if row["target"] == target}
        assert rows == set(told.output.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
def test_kernels_are_compiled_without_a_gpu(target: str) -> None:
    told = module(
        "acmix.benchmark.ahead.compiled", "patchwise_attention", target, "bfloat16", "--every", "9",
        TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert told.status == 0, told.errors[-2000:]
    rows = [json.loads(line) for line in told.output.splitlines()]
    assert {row["kernel"] for row in rows} == {"forward", "values_back", "weights_back"}
    assert all(16 <= row["registers"] <= 512 and row["spill_bytes"] >= 0 for row in rows)
    assert all(row["programs_per_multiprocessor"] >= 1 for row in rows)
