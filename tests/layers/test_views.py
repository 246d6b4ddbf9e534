"""Tokens, and those behind the first: views whose gradient is PyTorch's, in one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from acmix.layers.views import tokens_and_those_behind


def used(x: Tensor, first: int, apart: bool) -> Tensor:
    """A number made of both views."""
    every, behind = (x, x[:, first:]) if apart else tokens_and_those_behind(x, first)
    return (every.sin() * 2).sum() + (behind**3).sum()


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_the_two_apart(first: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found, expected = (torch.autograd.grad(used(x, first, apart), x)[0] for apart in (False, True))
    assert torch.equal(found, expected)


def test_both_are_views() -> None:
    x = torch.randn(2, 5, 4, requires_grad=True)
    every, behind = tokens_and_those_behind(x, 1)
    assert every.data_ptr() == x.data_ptr()
    assert behind.data_ptr() == x[:, 1:].data_ptr()


def test_one_view_alone_has_its_gradient() -> None:
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    for use in (0, 1):
        found = torch.autograd.grad(tokens_and_those_behind(x, 2)[use].sin().sum(), x)[0]
        expected = torch.autograd.grad((x, x[:, 2:])[use].sin().sum(), x)[0]
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_every_other_derivative() -> None:
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda each: used(each, 1, apart=False), x)
    assert torch.autograd.gradcheck(lambda each: used(each, 1, apart=False), x, check_batched_grad=True)
    expected = torch.autograd.grad(used(x, 1, apart=True), x)[0]
    assert torch.equal(torch.func.grad(lambda each: used(each, 1, apart=False))(x), expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach().requires_grad_(), torch.ones_like(x))
        grad = torch.autograd.grad(used(dual, 1, apart=False), dual, create_graph=True)[0]
        other = torch.autograd.grad(used(dual, 1, apart=True), dual, create_graph=True)[0]
        tangents = [forward_ad.unpack_dual(each).tangent for each in (grad, other)]
        torch.testing.assert_close(*tangents)
    compiled = torch.compile(lambda each: used(each, 1, apart=False), backend="aot_eager", fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], expected)
