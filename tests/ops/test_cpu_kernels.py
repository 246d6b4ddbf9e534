"""The CPU kernels against the reference: the shared tables of cases, any threads, sizes beyond their tables."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import acmix
from acmix import ops
from acmix.errors import UsageError
from acmix.testing.cases import CASES, CONV_CASES, WINDOW_CASES
from acmix.testing.cases_local import LOCAL_CASES, LocalCase
from acmix.testing.check import check, results

EVERY_CASE = [*CASES, *LOCAL_CASES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: f"{type(case).__module__.split('.')[2]}: {case.name}")
def test_output_and_every_gradient_are_as_right_as_the_reference_s(case, dtype, empty_is_nan):
    check(case, "cpu", dtype)


@pytest.mark.parametrize(
    "case", [CONV_CASES[0], WINDOW_CASES[0], LOCAL_CASES[0]], ids=lambda case: type(case).__module__.split(".")[2]
)
def test_no_bit_depends_on_the_number_of_threads(case):
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(results(case, "cpu", case.tensors()))
        finally:
            torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_kernels_windows_and_neighbourhoods_of_any_size_are_computed():
    pieces, fc = torch.randn(1, 3, 3, 2, 4), torch.randn(289, 2)
    kernels = torch.randn(4, 289, 17, 17) / 300
    qkv = torch.randn(1, 5, 41, 3, 1, 4)
    calls = {
        "a 17×17 kernel": lambda: ops.conv_path(pieces, fc, None, kernels),
        "a 33×33 window": lambda: ops.window_attention(qkv, None, window=33),
        "a 257×257 neighbourhood": lambda: ops.local_attention(qkv, None, size=(1, 257)),
    }
    for name, call in calls.items():
        with ops.use("reference"):
            expected = call()
        assert torch.allclose(call(), expected, atol=1e-5), name
        with ops.use("cpu"), pytest.raises(UsageError, match="'cpu' cannot run"):
            call()


def test_half_the_numbers_are_read_where_only_the_last_dimension_is_strided():
    case = LocalCase("strided channels", head_dim=6)
    tensors = case.tensors()
    spread = {name: torch.stack([tensor, tensor], -1).flatten(-2)[..., ::2] for name, tensor in tensors.items()}
    with ops.use("cpu"):
        assert torch.equal(case.call(spread), case.call(tensors))


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
