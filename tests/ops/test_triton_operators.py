"""The GPU kernels equal the reference, output and every gradient, in Triton's interpreter.

Every case of the tables runs in float32; in float16 the first case of every shape of a product, see `triton_table`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.processes import module, python

OPERATORS = ["conv_path", "window_attention", "local_attention", "patchwise_attention"]
PYTHON = [sys.executable, "-W", "ignore"]


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that sees no GPU."""
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*PYTHON, *arguments], capture_output=True, text=True, env=hidden, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_tables_of_cases_are_right_in_the_interpreter(operator: str) -> None:
    told = run(["-m", "tests.ops.triton_table", operator, "float32", "float16"])
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    for dtype in ("float32", "float16"):
        assert f" cases in torch.{dtype}, 0 wrong\na second run gives the same bits\n" in told.stdout


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_kernels_compile_for_a_gpu(operator: str) -> None:
    """The interpreter takes what the compiler refuses; this needs no GPU."""
    told = module("tests.ops.triton_compile", operator, "float16", TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    assert told.status == 0, told.output[-3000:] + told.errors[-3000:]
    assert told.output.endswith(" kernels, 0 wrong\n")


SAYS_WHY = """
import torch
from acmix import ops
print(ops.explain("cpu"))
print(ops.explain("cuda", torch.float64))
try:
    with ops.use("triton"):
        pass
except ValueError as error:
    print("refused:", error)
import sys
ops.conv_path(torch.randn(1, 2, 2, 3, 4), torch.randn(9, 3), None, torch.randn(4, 9, 3, 3))
print([name for name in sys.modules if name.startswith("acmix.ops.") and name.endswith("kernels")])
"""


@pytest.mark.slow
def test_without_a_gpu_the_reason_is_said_and_no_kernel_is_loaded() -> None:
    told = python(SAYS_WHY, TRITON_INTERPRET="0", ACMIX_CPU_KERNELS="0", CUDA_VISIBLE_DEVICES="")
    assert told.status == 0, told.errors[-2000:]
    assert "runs on a GPU only, and the data is on cpu" in told.output
    assert "takes float32, bfloat16 and float16, and the data is float64" in told.output
    assert "refused: implementation 'triton' cannot run: PyTorch finds no GPU" in told.output
    assert told.output.endswith("\n[]\n")


INTERPRETER_ONLY_WHEN_FORCED = """
import torch
from acmix import ops
from acmix.ops import dispatch
arguments = dispatch.usual("conv_path", "cpu", torch.float32)
print(dispatch.choose("conv_path", arguments).name)
with ops.use("triton"):
    print(dispatch.choose("conv_path", arguments).name)
    try:
        dispatch.choose("conv_path", dispatch.usual("conv_path", "cpu", torch.bfloat16))
    except ValueError as error:
        print("refused:", error)
"""


@pytest.mark.slow
def test_the_interpreter_runs_only_when_forced_and_never_bfloat16() -> None:
    # Triton reads TRITON_INTERPRET when it is imported
    told = run(["-c", INTERPRETER_ONLY_WHEN_FORCED], TRITON_INTERPRET="1", ACMIX_CPU_KERNELS="0")
    assert told.returncode == 0, told.stderr[-2000:]
    lines = told.stdout.splitlines()
    assert lines[:2] == ["reference", "triton"]
    assert "interpreter multiplies bfloat16 wrongly" in lines[2]
