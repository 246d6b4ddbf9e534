"""What operators are measured beside computes the same; see `test_operators` for those of every machine."""

from __future__ import annotations

import pytest
import torch

from acmix import ops
from acmix.benchmark.operators import pairs
from acmix.benchmark.peers import flex_attention_in_neighbourhoods
from acmix.ops.local_attention.cases import Case


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("side", "stride", "dilation"),
    [
        pytest.param(7, 1, 1, marks=pytest.mark.slow),
        (9, 2, 1),
        pytest.param(6, 2, 1, marks=pytest.mark.slow),
        pytest.param(9, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_flex_attention_as_a_peer_computes_local_attention(side: int, stride: int, dilation: int) -> None:
    case = Case("", (2, side, side), heads=2, size=(7, 5), stride=stride, dilation=dilation)
    # on a CPU it has no gradient
    tensors = {name: tensor.detach() for name, tensor in case.tensors().items()}
    with ops.use("reference"):
        expected = case.call(tensors)
    found = flex_attention_in_neighbourhoods(**tensors, **case.settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_gpu_a_line_says_why_flex_attention_is_no_peer() -> None:
    said: list[str] = []
    case = Case("4x4", (1, 4, 4), size=(7, 7))
    list(pairs(case, 1, "fp32", torch.device("cpu"), said.append))
    assert said == ["4x4: FlexAttention is no peer here: its kernels are for a GPU"]
