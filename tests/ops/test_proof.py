"""A kernel proves itself on its first use: what is right is noted, what is wrong is out of use, with one line."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from acmix.ops import build, dispatch, proof
from tests.support.processes import python

KERNELS = pytest.mark.skipif(build.why_not() is not None, reason="no CPU kernels here")

# the fault stands in place of the kernel before anything is computed; %s is what the kernel's module does then
WRONG = """
import torch
from acmix import ops
from acmix.ops import dispatch
kernels = dispatch.OPERATORS["{operator}"].parts["cpu"]
forward, backward = kernels.forward, kernels.backward
def spoilt(out):
    out.view(-1)[7] += 0.3
    return out
def failing(*values):
    raise RuntimeError("illegal instruction\\nand more")
{fault}
case = dispatch.OPERATORS["{operator}"].parts["cases"].CASES[0]
tensors = case.tensors()
out = case.call(tensors)
out.sum().backward()
with ops.use("reference"):
    again = case.tensors()
    expected = case.call(again)
    expected.sum().backward()
print(torch.equal(out, expected), all(torch.equal(each.grad, again[name].grad) for name, each in tensors.items()))
print(ops.explain("{operator}"))
try:
    with ops.use("cpu"):
        case.call(case.tensors())
except ValueError as error:
    print("refused:", error)
print(ops.explain("{other}"))
"""
FAULTS = {
    "the output": (
        "kernels.forward = lambda arguments: forward(arguments) * 1.01",
        "is wrong here: the output of a small case",
    ),
    "a gradient": (
        "kernels.backward = lambda *values: (backward(*values)[0].roll(1, 1), *backward(*values)[1:])",
        "is wrong here: the gradient of",
    ),
    "no number": (
        "kernels.forward = lambda arguments: forward(arguments) * float('nan')",
        "is wrong here: the output of a small case",
    ),
    "one number": (
        "kernels.forward = lambda arguments: spoilt(forward(arguments))",
        "is wrong here: the output of a small case",
    ),
    "an error": ("kernels.forward = failing", "fails here: RuntimeError: illegal instruction;"),
}


@KERNELS
@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "fault"),
    # each operator once, each fault once
    [(operator, "the output") for operator in dispatch.OPERATORS]
    + [("window_attention", fault) for fault in FAULTS if fault != "the output"],
)
def test_a_kernel_that_is_wrong_here_is_out_of_use_with_one_line(operator: str, fault: str, tmp_path: Path) -> None:
    code, words = FAULTS[fault]
    other = next(name for name in dispatch.OPERATORS if name != operator)
    # what earlier processes noted is not seen, but the library is
    link_library(tmp_path)
    told = python(WRONG.format(operator=operator, fault=code, other=other), ACMIX_CACHE=str(tmp_path))
    assert told.status == 0, told.errors
    lines = told.output.splitlines()
    assert lines[0] == "True True"
    reason = next(line for line in lines if line.startswith(f"{operator}") and " cpu " in line)
    assert f"its kernel {words}" in reason
    assert any(line.startswith("refused: implementation 'cpu' cannot run") and words in line for line in lines)
    assert any(line.startswith(other) and line.split()[1:3] == ["cpu", "runs"] for line in lines)
    assert told.errors.count("acmix: ") == 1
    assert told.errors.startswith(f"acmix: {operator}, cpu, float32: its kernel ")
    # the other operator's alone
    assert len(list(tmp_path.glob("right-*"))) == 1


def link_library(folder: Path) -> None:
    """The kernels that are built, in another cache folder."""
    folder.chmod(0o700)
    # a process that built the library itself has loaded it under a name that is gone
    path = build.build().path
    for each in (path, path.with_suffix(".sha256")):
        (folder / each.name).write_bytes(each.read_bytes())
        (folder / each.name).chmod(0o755)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", list(dispatch.OPERATORS))
def test_our_kernels_are_right_and_a_trial_takes_less_than_a_second(operator: str, dtype: torch.dtype) -> None:
    found = dispatch.OPERATORS[operator]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert proof.tried(found, found.parts["cpu"], dtype, torch.device("cpu")) is None
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1


def spoilt(out: Tensor) -> Tensor:
    """One number off by 5 % of the largest."""
    out.view(-1)[out.abs().argmin()] += 0.05 * out.abs().max()
    return out


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", list(dispatch.OPERATORS))
def test_small_faults_are_found(operator: str, dtype: torch.dtype) -> None:
    found = dispatch.OPERATORS[operator]
    right = found.parts["cpu"]

    wrong = {
        "output × 1.05": dict(forward=lambda arguments: right.forward(arguments) * 1.05),
        "one number": dict(forward=lambda arguments: spoilt(right.forward(arguments))),
        "last gradient × 0.95": dict(backward=lambda *given: last_less(right.backward(*given))),
    }
    for name, fault in wrong.items():
        kernels = SimpleNamespace(forward=right.forward, backward=right.backward, why_not=right.why_not)
        vars(kernels).update(fault)
        assert proof.tried(found, kernels, dtype, torch.device("cpu")) is not None, name


def last_less(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The last gradient that is there is 5 % too small."""
    last = max(place for place, each in enumerate(gradients) if each is not None)
    return tuple(each * 0.95 if place == last and each is not None else each for place, each in enumerate(gradients))


@KERNELS
@pytest.mark.parametrize("setting", ["stride", "dilation"])
@pytest.mark.parametrize("operator", ["conv_path", "local_attention"])
def test_a_kernel_that_passes_over_a_setting_is_found(operator: str, setting: str) -> None:
    found = dispatch.OPERATORS[operator]
    right = found.parts["cpu"]

    def forward(arguments: Any) -> Tensor:
        out = right.forward(arguments._replace(**{setting: 1}))
        rows, columns = found.parts["spec"].output(arguments).shape[1:3]
        return out[:, :rows, :columns]

    kernels = SimpleNamespace(forward=forward, backward=right.backward, why_not=right.why_not)
    assert "stride and dilation" in str(proof.tried(found, kernels, torch.float32, torch.device("cpu")))


@KERNELS
def test_a_kernel_is_tried_once_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    tried = []
    monkeypatch.setattr(build, "cache_folders", lambda: [tmp_path])
    monkeypatch.setattr(proof, "tried", lambda *_: tried.append(1))
    operator, data = dispatch.OPERATORS["conv_path"], torch.zeros(1)
    for _ in range(2):
        # as another process
        monkeypatch.setattr(proof, "_answers", {})
        assert [proof.reason_against("cpu", operator, data) for _ in range(2)] == [None, None]
    assert len(tried) == 1
    assert len(list(tmp_path.iterdir())) == 1
    # a note that others could have written counts for nothing
    next(tmp_path.iterdir()).chmod(0o666)
    monkeypatch.setattr(proof, "_answers", {})
    proof.reason_against("cpu", operator, data)
    assert len(tried) == 2


@KERNELS
def test_without_a_folder_each_process_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(build, "cache_folders", list)
    monkeypatch.setattr(proof, "tried", lambda *_: tried.append(1))
    monkeypatch.setattr(proof, "_answers", {})
    assert proof.reason_against("cpu", dispatch.OPERATORS["conv_path"], torch.zeros(1)) is None
    assert tried == [1]


WITHIN = """
import torch
from acmix import ops
from acmix.ops import dispatch, proof
proof.noted_as, proof.note = lambda *_: "nowhere", lambda _: None
case = dispatch.OPERATORS["window_attention"].parts["cases"].CASES[0]
values = {name: each.detach() for name, each in case.tensors().items()}
call = lambda qkv: ops.window_attention(qkv, values["bias_table"], **case.settings)
expected = call(values["qkv"])
state = torch.get_rng_state()
for enter in (
    torch.inference_mode, lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16),
    torch.enable_grad, lambda: torch.utils.flop_counter.FlopCounterMode(display=False),
):
    proof._answers.clear()
    with enter() as entered:
        call(values["qkv"])
    print(sorted(set(map(str, proof._answers.values()))), getattr(entered, "get_total_flops", int)() < 10**6)
proof._answers.clear()
print(torch.equal(torch.vmap(call)(values["qkv"][None])[0], expected), set(proof._answers.values()))
print(torch.equal(state, torch.get_rng_state()))
"""


@KERNELS
@pytest.mark.slow
def test_a_trial_knows_nothing_of_what_it_is_called_within() -> None:
    told = python(WITHIN)
    assert told.status == 0, told.errors
    assert told.output.splitlines() == ["['None'] True"] * 5 + ["True {None}", "True"]
