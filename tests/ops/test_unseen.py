"""Calls that nobody sees go past PyTorch's dispatcher; whoever would see an operator there does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from acmix.ops import dispatch, explain, library
from acmix.ops.unseen import is_unseen

NAMES = sorted(dispatch.OPERATORS)


class Watched(Tensor):
    """A tensor of another kind, which is asked about every function."""

    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        cls.seen.append(str(function))
        return super().__torch_function__(function, types, values, named or {})


class Watch(TorchDispatchMode):
    """A mode that notes every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*values, **(named or {}))


def call_of(name: str, change: Callable[[Tensor], Tensor] = lambda each: each) -> tuple[list[Tensor], Tensor]:
    """The tensors of an operator's first case, and its output."""
    operator = dispatch.OPERATORS[name]
    case = operator.parts["cases"].CASES[0]
    tensors = {key: change(each) for key, each in case.tensors().items()}
    return list(tensors.values()), operator.function(**tensors, **case.settings)


def results(name: str) -> list[Tensor]:
    """The output and every gradient."""
    tensors, out = call_of(name, lambda each: each.requires_grad_())
    return [out, *torch.autograd.grad(out.sin().sum(), tensors)]


@pytest.mark.parametrize("name", NAMES)
def test_an_unseen_call_gives_the_bits_of_a_seen_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(name)
    for module in (dispatch, library):
        monkeypatch.setattr(module, "is_unseen", lambda values: False)
    assert all(map(torch.equal, found, results(name)))


@pytest.mark.parametrize("name", NAMES)
def test_an_unseen_call_does_not_ask_the_dispatcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results(name)
    monkeypatch.setattr(torch.ops, "acmix", None)
    assert all(map(torch.equal, before, results(name)))


@pytest.mark.parametrize("name", NAMES)
def test_whoever_watches_sees_the_operator(name: str) -> None:
    with Watch() as watch:
        call_of(name)
    assert f"acmix.{name}.default" in watch.seen
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        results(name)
    assert {f"acmix::{name}", f"acmix::{name}_backward"} <= {each.key for each in profiled.key_averages()}
    Watched.seen.clear()
    call_of(name, lambda each: each.as_subclass(Watched))
    assert f"acmix.{name}.default" in Watched.seen
    with FlopCounterMode(display=False) as counter:
        results(name)
    counted = {str(each) for each in counter.get_flop_counts()["Global"]}
    assert {f"acmix.{name}", f"acmix.{name}_backward"} <= counted


def test_numbers_that_a_schema_turns_or_refuses_are_seen() -> None:
    qkv = torch.randn(1, 4, 4, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    pieces, fc, kernels = qkv.flatten(3, 4), torch.ones(9, 6), torch.ones(16, 9, 3, 3)
    stride: Any = np.int64(2)
    local = dispatch.OPERATORS["local_attention"].function
    path = dispatch.OPERATORS["conv_path"].function
    assert torch.equal(local(qkv, None, size=3, stride=stride), local(qkv, None, size=3, stride=2))
    assert torch.equal(path(pieces, fc, None, kernels, dilation=stride), path(pieces, fc, None, kernels, dilation=2))
    assert "reference" in explain("local_attention", qkv, None, size=3, stride=stride)
    for wrong in (1.0, 2**64 + 1):
        with pytest.raises(RuntimeError, match="Expected a value of type 'int'"):
            path(pieces, fc, None, kernels, dilation=wrong)
    with pytest.raises(RuntimeError, match="Expected a value of type 'Tensor'"):
        path(pieces, np.ones((9, 6)), None, kernels)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_can_be_changed_in_place(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        tensors, out = call_of(name, lambda each, dtype=dtype: each.to(dtype).requires_grad_())
        found = torch.autograd.grad(out.mul_(2).sum(), tensors)
        tensors, out = call_of(name, lambda each, dtype=dtype: each.to(dtype).requires_grad_())
        expected = torch.autograd.grad((out * 2).sum(), tensors)
        assert all(map(torch.equal, found, expected))


def test_what_is_more_than_its_numbers_is_seen() -> None:
    plain = torch.ones(2, 3)
    assert is_unseen((plain, None, 1, (2, 3), nn.Parameter(plain), plain.T))
    with torch.inference_mode():
        assert is_unseen((torch.ones(2),))
    assert not is_unseen((plain, torch.ones(2, device="meta")))
    assert not is_unseen((torch._neg_view(plain),))
    assert not is_unseen((plain.to_sparse(),))
    assert not is_unseen((torch.ones(2, dtype=torch.complex64).conj(),))
    assert not is_unseen((plain.as_subclass(Watched),))


def test_what_would_ask_the_dispatcher_is_seen() -> None:
    plain = torch.ones(2, 3)
    seen: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        seen.append(not is_unseen((x, plain)))
        return x * 2

    torch.vmap(ask)(plain)
    torch.func.grad(lambda x: ask(x).sum())(plain)
    torch.jit.trace(ask, plain, check_trace=False)
    torch.autograd.grad(ask(plain.requires_grad_()).sum(), plain)
    with forward_ad.dual_level():
        ask(forward_ad.make_dual(plain, plain))
    with Watch():
        ask(plain)
    with torch.device("cpu"):
        ask(plain)
    assert seen == [True, True, True, False, True, True, True]


def test_gradients_by_batches_are_seen() -> None:
    tensors, out = call_of("conv_path", lambda each: each.requires_grad_())
    grads = torch.stack([torch.ones_like(out), out.detach()])
    together = torch.autograd.grad(out, tensors, grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        apart = torch.autograd.grad(out, tensors, grad, retain_graph=True)
        for one, many in zip(apart, together, strict=True):
            torch.testing.assert_close(many[i], one)
