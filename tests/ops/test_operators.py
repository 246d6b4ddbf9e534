"""The reference is what the equations say: equal to loops over numbers, with gradients that differences confirm."""

import math
from types import SimpleNamespace

import pytest
import torch

from acmix import ops
from acmix.ops import dispatch
from acmix.ops.conv_path import reference
from acmix.testing import oracle
from acmix.testing.cases import CASES, CONV_CASES, WINDOW_CASES, ConvCase, WindowCase
from acmix.testing.check import check, relative_error, results

pytestmark = pytest.mark.usefixtures("empty_is_nan")

# Errors of the reference in rounding steps of the dtype, over all cases: at most 6.1 when this was written.
STEPS = 16


def named(case):
    return f"{type(case).__module__.split('.')[2]}: {case.name}"


def test_uninitialised_memory_is_nan_here():
    assert torch.empty(100).isnan().all()
    assert torch.ones(3).new_empty(7).isnan().all()
    assert torch.empty_like(torch.ones(5, dtype=torch.float16)).isnan().all()


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_reference_equals_the_oracle(case):
    tensors = {name: tensor.detach() for name, tensor in case.tensors(torch.float64).items()}
    if isinstance(case, ConvCase):
        expected = oracle.conv_path(**{"fc_bias": None, **tensors}, **case.settings)
    else:
        expected = oracle.window_attention(**tensors, **case.settings)
    found = case.call(tensors)
    assert found.is_contiguous()
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("case", [case for case in CASES if case.size[0]], ids=named)
def test_gradients_equal_differences(case):
    names = list(case.tensors())
    # a view with a step of 0 cannot be changed one number at a time
    tensors = [tensor.detach().contiguous().requires_grad_() for tensor in case.tensors(torch.float64).values()]

    def call(*values):
        return case.call(dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize("case", [CONV_CASES[1], CONV_CASES[5], WINDOW_CASES[15]], ids=named)
def test_every_entry_of_the_jacobian_equals_differences(case):
    small = type(case)(**{**vars(case), "size": (1, 3, 5), "head_dim": 2, "heads": 1})
    names = list(small.tensors())

    def call(*values):
        return small.call(dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, list(small.tensors(torch.float64).values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_reference_is_as_exact_as_its_dtype(case, dtype):
    for error in check(case, "reference", dtype):
        assert error.ours <= STEPS * torch.finfo(dtype).eps, str(error)


def test_the_checker_sees_a_wrong_gradient_and_an_unwritten_element(monkeypatch):
    def wrong(grad, arguments):
        grads = reference.backward(grad, arguments)
        return (*grads[:3], grads[3] * 1.01)

    def unwritten(arguments):
        out = reference.forward(arguments)
        return torch.cat([out[..., :-1], torch.empty_like(out[..., -1:])], -1)

    tests = {"wrong": (reference.forward, wrong), "unwritten": (unwritten, reference.backward)}
    broken = [
        dispatch.Implementation(
            name, {"conv_path": SimpleNamespace(forward=forward, backward=backward, why_not=lambda arguments: None)}
        )
        for name, (forward, backward) in tests.items()
    ]
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [*dispatch.IMPLEMENTATIONS, *broken])
    with pytest.raises(AssertionError, match="grad kernels"):
        check(CONV_CASES[0], "wrong", torch.float32)
    with pytest.raises(AssertionError, match="output: inf"):
        check(CONV_CASES[0], "unwritten", torch.float32)


def test_an_unwritten_memory_layout_does_not_change_the_result():
    for cases in (CONV_CASES, WINDOW_CASES):
        plain = next(case for case in cases if case.layout == "contiguous" and any(case.shift))
        for layout in ("planes", "slice"):
            case = type(plain)(**{**vars(plain), "layout": layout})
            one, other = (results(each, "reference", each.tensors(torch.float64)) for each in (plain, case))
            assert all(relative_error(other[name], one[name]) < 1e-14 for name in one)


def test_kernels_that_shift_add_up_shifted_maps():
    pieces = torch.randn(1, 5, 6, 3, 2, dtype=torch.float64)
    fc = torch.randn(9, 3, dtype=torch.float64)
    shifts = torch.eye(9, dtype=torch.float64).view(1, 9, 3, 3).expand(2, 9, 3, 3)
    found = ops.conv_path(pieces, fc, None, shifts)
    mapped = torch.einsum("bhwpd,tp->tbhwd", pieces, fc)
    padded = torch.nn.functional.pad(mapped, (0, 0, 1, 1, 1, 1))
    expected = sum(padded[t, :, t // 3 : t // 3 + 5, t % 3 : t % 3 + 6] for t in range(9))
    torch.testing.assert_close(found, expected)


def test_the_bias_of_fc_stops_at_the_border():
    pieces = torch.zeros(1, 3, 3, 3, 1)
    found = ops.conv_path(pieces, torch.zeros(9, 3), torch.ones(9), torch.ones(1, 9, 3, 3))
    assert found[0, :, :, 0].tolist() == [[36.0, 54.0, 36.0], [54.0, 81.0, 54.0], [36.0, 54.0, 36.0]]


def test_padding_is_never_attended():
    case = WindowCase("", size=(1, 6, 7), shift=(2, 2))
    tensors = {name: tensor.detach() for name, tensor in case.tensors(torch.float64).items()}
    # a key of zeros, as padding has, would win against these by e^1000
    tensors["qkv"][..., 0, :, :] = 100.0
    tensors["qkv"][..., 1, :, :] = -100.0
    expected = oracle.window_attention(**tensors, **case.settings)
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
