"""Layers have every derivative that their operators have, alone and in networks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import acmix
from acmix.layers import (
    ACmix1d,
    ACmix2d,
    GlobalAttention,
    Mixing,
    PairwiseAttention,
    PatchwiseAttention,
    WindowAttention,
)
from acmix.testing.judge import relative_error

SOFTMAX, SHIFTS = Mixing(rates="softmax"), Mixing(conv_kernels="shifts")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ACmix2d": (lambda: ACmix2d(4, 4, heads=2, attention_size=3), (2, 4, 4, 3)),
    "ACmix2d, stride 2": (lambda: ACmix2d(4, 4, heads=2, attention_size=3, stride=2, dilation=2), (2, 4, 5, 3)),
    "ACmix2d, softmax of rates": (
        lambda: ACmix2d(4, 4, attention_size=3, mixing=SOFTMAX),
        (2, 4, 3, 3),
    ),
    "ACmix2d, shifts": (lambda: ACmix2d(4, 4, attention_size=3, mixing=SHIFTS), (2, 4, 3, 3)),
    "ACmix1d": (lambda: ACmix1d(4, 4, heads=2, attention_size=3), (2, 4, 5)),
}
SWIN = dict(img_size=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4)
NETWORKS: dict[str, dict[str, Any]] = {
    "acmix_swin_tiny_patch4_window7_224": SWIN,
    "acmix_resnet26": {},
    "acmix_san10": {},
    "acmix_deit_tiny_patch16_224": dict(img_size=32),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A module in float64 with weights at no special place, and an input."""
    torch.manual_seed(0)
    if name in LAYERS:
        make, shape = LAYERS[name]
        module = make().double()
        with torch.no_grad():
            for each in module.parameters():
                each.add_(torch.randn_like(each) / 10)
        return module, torch.randn(shape, dtype=torch.float64)
    model = acmix.create_model(name, num_classes=3, **NETWORKS[name]).double().eval()
    return model, torch.randn(2, 3, 32, 32, dtype=torch.float64)


def loss(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(module, parameters, (x,)).square().sum()


def second_order(module: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> None:
    """Tangents and gradients are of one Jacobian, and both modes give one Hessian's product."""
    x = x.requires_grad_()
    out, tangent = jvp(module, (x.detach(),), (direction,))  # pyright: ignore[reportAssignmentType]
    pulled = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(module(x), x, pulled)
    torch.testing.assert_close((tangent * pulled).sum(), (gradient * direction).sum(), rtol=1e-8, atol=1e-12)
    (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad((first * direction).sum(), x)
    forward = jvp(grad(lambda x: module(x).square().sum()), (x.detach(),), (direction,))[1]
    assert relative_error(forward, twice) < 1e-8


def gradients_of_each_sample(module: nn.Module, x: Tensor) -> None:
    parameters = {name: each.detach() for name, each in module.named_parameters()}
    found = vmap(grad(lambda weights, one: loss(module, weights, one[None])), (None, 0))(parameters, x)
    largest = max(float(each.detach().abs().max()) for each in found.values())
    for i in range(len(x)):
        expected = torch.autograd.grad(loss(module, {}, x[i : i + 1]), list(module.parameters()))
        for (name, each), other in zip(found.items(), expected, strict=True):
            assert float((each[i] - other).abs().max()) < 1e-10 * largest, name


def an_ensemble(module: nn.Module, x: Tensor) -> None:
    members = [deepcopy(module), module]
    with torch.no_grad():
        for each in members[0].parameters():
            each.mul_(1.1)
        weights = stack_module_state(members)
        found = vmap(lambda *state: functional_call(module, state, (x,)))(*weights)  # pyright: ignore[reportArgumentType]
        assert relative_error(found, torch.stack([each(x) for each in members])) < 1e-12
        assert relative_error(vmap(module)(torch.stack([x, -x])), torch.stack([module(x), module(-x)])) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_every_derivative(name: str) -> None:
    module, x = made(name)
    parameters = dict(module.named_parameters())

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return functional_call(module, dict(zip(parameters, weights, strict=True)), (x,))

    inputs = (x.clone().requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True, atol=1e-4)
    gradients_of_each_sample(module, x)
    an_ensemble(module, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_every_derivative(name: str) -> None:
    model, x = made(name)
    # PyTorch's fused attention has a first gradient alone
    with sdpa_kernel(SDPBackend.MATH):
        second_order(model, x, torch.randn_like(x))
    gradients_of_each_sample(model, x)
    an_ensemble(model, x)


def test_fused_attention_refuses_a_tangent_by_itself() -> None:
    layer, x = GlobalAttention(8, 2).double(), torch.randn(1, 4, 8, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
        jvp(lambda x: layer(x, (2, 2)), (x,), (x,))
    with sdpa_kernel(SDPBackend.MATH):
        second_order(lambda x: layer(x, (2, 2)), x, torch.randn_like(x))


def test_attentions_of_maps_have_tangents() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    attentions = (WindowAttention(4, 2, (2, 2)), PatchwiseAttention(32, 3), PairwiseAttention(32, 3))
    for layer in attentions:
        second_order(layer.double().eval(), x.clone(), torch.randn_like(x))


@pytest.mark.parametrize("where", ["input", "parameters"])
def test_channels_last_maps_have_the_same_derivatives(where: str) -> None:
    module, x = made("ACmix2d")
    last = x.contiguous(memory_format=torch.channels_last)
    direction = torch.randn_like(x)
    assert relative_error(jvp(module, (last,), (direction,))[1], jvp(module, (x,), (direction,))[1]) < 1e-12
    gradients_of_each_sample(module, last)
    assert module(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_dropout_in_a_network_draws_as_vmap_is_told(randomness: str) -> None:
    model = acmix.create_model("acmix_swin_tiny_patch4_window7_224", drop_rate=0.5, **SWIN).train()  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)[:, None]
    one, other = vmap(model, randomness=randomness)(x)
    assert torch.equal(one, other) == (randomness == "same")
