"""What operators are measured beside computes the same; see `test_operators` for those of every machine."""

from __future__ import annotations

import pytest
import torch

from acmix import ops
from acmix.benchmark.operators import pairs, peer_settings
from acmix.benchmark.peers import flex_attention_in_neighbourhoods
from acmix.ops.local_attention.cases import Case


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("side", "stride"), [(7, 1), (9, 2), (6, 2)])
def test_flex_attention_as_a_peer_computes_local_attention(side: int, stride: int) -> None:
    shape = Case("", map_size=(2, side, side), size=(7, 7), stride=stride)
    drawn = shape.tensors()
    # on a CPU it has no gradient
    tensors = {name: tensor.detach() for name, tensor in drawn.items()}
    with ops.use("reference"):
        expected = ops.local_attention(**tensors, **shape.settings)
    found = flex_attention_in_neighbourhoods(**tensors, **peer_settings(shape))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_gpu_a_line_says_why_flex_attention_is_no_peer() -> None:
    said: list[str] = []
    shape = Case("4x4 C 8 N 2", map_size=(1, 4, 4), size=(7, 7))
    list(pairs(shape, 1, "fp32", torch.device("cpu"), said.append))
    assert said == ["4x4 C 8 N 2: FlexAttention is no peer here: its kernels are for a GPU"]
