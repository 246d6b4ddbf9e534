"""The CPU kernels against the reference: the shared tables of cases, any threads, sizes beyond their tables."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import acmix
from acmix import ops
from acmix.errors import UsageError
from acmix.ops import dispatch
from acmix.ops.local_attention.cases import Case as LocalCase
from acmix.testing.judge import check, results_of
from tests.support.cases import CASES, case_named, first_of_each, label, refused_by

TAKEN = [case for case in CASES if refused_by(case, "cpu") is None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TAKEN, ids=label)
def test_output_and_every_gradient_are_as_right_as_the_reference_s(case, dtype, empty_is_nan):
    check(case, "cpu", dtype)


@pytest.mark.parametrize("case", first_of_each(), ids=label)
def test_no_bit_depends_on_the_number_of_threads(case):
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(results_of(case, "cpu", case.tensors()))
        finally:
            torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


@pytest.mark.parametrize("case", TAKEN, ids=label)
def test_no_bit_depends_on_what_the_kernel_s_memory_held(case):
    tensors = case.tensors()
    clean = results_of(case, "cpu", tensors)
    results_of(
        case, "cpu", {name: tensor.detach().fill_(math.nan).requires_grad_() for name, tensor in case.tensors().items()}
    )
    after = results_of(case, "cpu", tensors)
    assert all(torch.equal(after[name], value) for name, value in clean.items())


REFUSALS = {
    ("conv_path", "289 taps"): "takes kernels of at most 225 taps, and these have 17×17",
    ("window_attention", "window of 1,089 pixels"): "takes windows of at most 1024 pixels, and this one has 33×33",
    (
        "local_attention",
        "neighbourhood of 257 in a row",
    ): "takes neighbourhoods of at most 255 pixels a side, and this one has 1×257",
}


@pytest.fixture
def computed(monkeypatch):
    """Which implementation computed what, forward and backward."""
    asked = []

    def noting(implementation, operator, part):
        def forward(arguments):
            asked.append((implementation, operator))
            return part.forward(arguments)

        def backward(grad, arguments):
            asked.append((implementation, operator))
            return part.backward(grad, arguments)

        return SimpleNamespace(forward=forward, backward=backward, why_not=part.why_not)

    noted = [
        replace(each, operators={name: noting(each.name, name, part) for name, part in each.operators.items()})
        for each in dispatch.IMPLEMENTATIONS
    ]
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", noted)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_forced_every_case_runs_in_the_kernel_or_is_refused_in_one_line(dtype, computed):
    ran, refused = Counter(), Counter()
    for case in CASES:
        tensors = case.tensors(dtype)
        line, reason = None, ""
        with ops.use("cpu"):
            try:
                case.call(tensors).sum().backward()
            except UsageError as error:
                line = str(error)
        if line is None:
            assert computed == [("cpu", case.operator)] * 2
            ran[case.operator] += 1
        else:
            assert computed == []
            reason = REFUSALS.get((case.operator, case.name)) or (
                f"takes float32 and bfloat16, and the data is {str(dtype).removeprefix('torch.')}"
            )
            assert line == f"implementation 'cpu' cannot run {case.operator} on cpu: {reason}"
            refused[reason] += 1
        computed.clear()
        if line is not None and dtype == torch.float32:
            # nobody forces anything: the reference runs, and `explain` tells why
            case.call(tensors).sum().backward()
            assert computed == [("reference", case.operator)] * 2
            told = ops.explain(case.operator, **tensors, **case.settings)
            assert re.search(rf"^{case.operator} +cpu +{re.escape(reason)}$", told, re.MULTILINE)
            assert re.search(rf"^{case.operator} +reference +runs$", told, re.MULTILINE)
            computed.clear()
    print(f"{dtype}: {ran.total()} of {len(CASES)} cases run ({dict(ran)})")
    for reason, count in refused.items():
        print(f"{dtype}: {count} refused: {reason}")
    if dtype in (torch.float32, torch.bfloat16):
        assert set(refused) == set(REFUSALS.values())
    else:
        assert not ran


def test_what_the_forward_pass_refuses_the_backward_pass_refuses():
    """A window that is too large, computed by the reference, whose gradient is asked for under `use("cpu")`."""
    case = case_named("window_attention", "window of 1,089 pixels")
    out = case.call(case.tensors()).sum()
    with ops.use("cpu"), pytest.raises(UsageError, match="'cpu' cannot run window_attention on cpu: takes windows of"):
        out.backward()


def test_half_the_numbers_are_read_where_only_the_last_dimension_is_strided():
    case = LocalCase("strided channels", head_dim=6)
    tensors = case.tensors()
    spread = {name: torch.stack([tensor, tensor], -1).flatten(-2)[..., ::2] for name, tensor in tensors.items()}
    with ops.use("cpu"):
        assert torch.equal(case.call(spread), case.call(tensors))


@pytest.mark.slow
def test_nothing_is_compiled_again_from_batch_to_batch():
    torch._dynamo.reset()
    model = acmix.create_model(
        "acmix_swin_tiny_patch4_window7_224", img_size=28, window_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 4)
    )
    counted = CompileCounter()
    compiled = torch.compile(model, backend=counted, fullgraph=True)
    for _ in range(3):
        compiled(torch.randn(2, 3, 28, 28)).sum().backward()
    assert counted.frame_count == 1
