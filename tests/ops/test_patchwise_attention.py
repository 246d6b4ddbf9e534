"""Patchwise attention: its precision, and what it refuses."""

import pytest
import torch

from acmix import ops
from acmix.errors import UsageError
from tests.support.cases import case_named

CASE = case_named("patchwise_attention", "prime sides")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_in_float32(dtype):
    case = case_named("patchwise_attention", "as SAN has it")
    tensors = case.tensors(dtype)
    out = case.call(tensors)
    exact = case.call({name: tensor.detach().double() for name, tensor in tensors.items()})
    assert out.dtype == dtype
    assert ((out - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-4).all()
    assert [grad.dtype for grad in torch.autograd.grad(out.sum(), list(tensors.values()))] == [dtype, dtype]


def test_weights_of_any_strides_give_the_same():
    tensors = CASE.tensors()
    weights = tensors["weights"].detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(CASE.call({**tensors, "weights": weights}), CASE.call(tensors))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(size=2), "expected odd sides"),
        (dict(size=5), "weights has shape"),
        (dict(weights=torch.zeros(1, 5, 7, 9, 4)), "a G that divides the channels"),
        (dict(values=torch.zeros(5, 7, 6)), "expected (B, H, W, C)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_one_line(change, said):
    with pytest.raises(UsageError) as caught:
        ops.patchwise_attention(**{**CASE.tensors(), **CASE.settings, **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
