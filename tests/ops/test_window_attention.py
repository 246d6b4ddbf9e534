"""Window attention: who attends to whom, in which precision, and what it refuses."""

import math

import pytest
import torch

from acmix import ops
from acmix.errors import UsageError
from acmix.ops.window_attention.cases import CASES, Case
from acmix.testing import oracle
from acmix.testing.judge import relative_error


def test_padding_is_never_attended():
    case = Case("", map_size=(1, 6, 7), shift=(2, 2))
    tensors = {name: tensor.detach() for name, tensor in case.tensors(torch.float64).items()}
    # a key of zeros, as padding has, would win against these by e^1000
    tensors["qkv"][..., 0, :, :] = 100.0
    tensors["qkv"][..., 1, :, :] = -100.0
    expected = oracle.expected(case, tensors)
    found = case.call(tensors)
    assert relative_error(found, expected) < 1e-12
    # values of one are averaged to one, wherever the pixel lies
    tensors["qkv"][..., 2, :, :] = 1.0
    torch.testing.assert_close(case.call(tensors), torch.ones(1, 6, 7, 8, dtype=torch.float64))


@pytest.mark.parametrize("size", [(8, 8), (7, 6), (3, 3), (2, 5)])
def test_pixels_that_only_the_roll_made_neighbours_do_not_mix(size):
    qkv = torch.randn(1, *size, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    out = ops.window_attention(qkv, window=4, shift=2)
    # the first rows and columns lie beyond the seam, the last before it
    (grad,) = torch.autograd.grad(out[:, :2, :2].sum(), qkv)
    beyond = grad.abs().sum((0, 3, 4, 5))
    assert beyond[2:].sum() == 0
    assert beyond[:, 2:].sum() == 0
    assert beyond[0, 0] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_softmax_is_taken_in_float32(dtype):
    # 300 and more equal keys: weights below half a rounding step of one would sum to something else in bf16
    qkv = torch.ones(1, 18, 18, 3, 1, 4, dtype=dtype)
    out = ops.window_attention(qkv, window=18)
    assert out.dtype == dtype
    assert (out.double() - 1).abs().max() <= torch.finfo(dtype).eps * 2


def test_logits_that_overflow_half_precision_in_the_exponential_stay_finite():
    qkv = torch.full((1, 4, 4, 3, 1, 4), 30.0, dtype=torch.float16)
    out = ops.window_attention(qkv, window=4)
    assert out.isfinite().all()
    assert math.isclose(out.double().mean().item(), 30.0, rel_tol=1e-3)


WRONG_WINDOW = {
    r"qkv has shape \(2, 8, 8, 24\); expected \(B, H, W, 3, N, D\)": dict(qkv=torch.zeros(2, 8, 8, 24)),
    r"qkv has shape \(2, 8, 8, 2, 2, 4\); expected": dict(qkv=torch.zeros(2, 8, 8, 2, 2, 4)),
    r"bias_table has shape \(48, 2\); expected \(49, 2\)": dict(bias_table=torch.zeros(48, 2)),
    r"window=\(0, 4\); both sides must be at least 1": dict(window=(0, 4)),
    r"window=\(4, 4, 4\); expected a number or two": dict(window=(4, 4, 4)),
}


@pytest.mark.parametrize("message", WRONG_WINDOW)
def test_window_attention_names_what_does_not_fit(message):
    good = {name: tensor.detach() for name, tensor in CASES[0].tensors().items()}
    with pytest.raises(UsageError, match=message) as caught:
        ops.window_attention(**{**good, "window": 4, **WRONG_WINDOW[message]})
    assert "\n" not in str(caught.value)
