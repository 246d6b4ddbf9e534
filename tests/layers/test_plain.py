"""A module that somebody wrapped is called; a plain one is still one product with its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import acmix
from acmix.errors import UsageError
from acmix.layers import (
    ACmix1d,
    ACmix2d,
    GlobalAttention,
    Mixing,
    PairwiseAttention,
    PatchwiseAttention,
    ReductionAttention,
    WindowAttention,
    plain,
)
from acmix.layers.plain import is_plain
from acmix.layers.softmax import softmax_attention
from tests.support.wrappers import WRAPPERS, Doubled, LowRank, put, with_backward_hook

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization", "ignore:torch.quantize_per", "ignore:Full backward hook is firing"
)
# layer: its maker, an input, and the modules whose weights it reads
LAYERS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[Any, ...], tuple[str, ...]]] = {
    "window": (lambda **more: WindowAttention(8, 2, (3, 3), **more), (2, 5, 4, 8), ((1, 1),), ("proj",)),
    "global": (lambda **more: GlobalAttention(8, 2, **more), (2, 7, 8), ((2, 3),), ("proj",)),
    "reduction": (lambda **more: ReductionAttention(8, 2, 2, **more), (2, 15, 8), ((3, 5),), ("proj",)),
    "2d": (
        lambda **more: ACmix2d(3, 8, heads=2, attention_size=3, **more),
        (2, 3, 5, 6),
        (),
        ("query", "key", "value", "position"),
    ),
    "1d": (
        lambda **more: ACmix1d(3, 8, heads=2, attention_size=3, **more),
        (2, 3, 9),
        (),
        ("query", "key", "value", "position"),
    ),
}
PLACES = [(layer, name) for layer in LAYERS for name in LAYERS[layer][3]]
places = pytest.mark.parametrize(("kind", "name"), PLACES)


class Called(nn.Module):
    """Computes what a module computes, and has nothing that could be read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **more: Any) -> Tensor:
        return self.module(*arguments, **more)


class Halved(Called):
    """Computes half of what a convolution path computes."""

    def forward(self, *arguments: Any, **more: Any) -> Tensor:
        return self.module(*arguments, **more) / 2


def layer(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    made = LAYERS[kind][0](**more).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def inputs(kind: str) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(LAYERS[kind][1], generator=draw, dtype=torch.float64).requires_grad_(), *LAYERS[kind][2]


def results(module: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    out = module(*arguments)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [arguments[0], *module.parameters()])]


@places
@pytest.mark.parametrize("rates", ["learned", 0.3, "softmax"])
def test_a_called_module_gives_what_its_weights_give(kind, name, rates):
    read = layer(kind, mixing=Mixing(rates=rates))
    called = copy.deepcopy(read)
    put(called, name, Called)
    for one, other in zip(results(called, inputs(kind)), results(read, inputs(kind)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["1d", "2d"])
@pytest.mark.parametrize("changed", [dict(memory_format=torch.channels_last), dict(dtype=torch.bfloat16)])
def test_called_projections_give_their_layer_s_format(kind, changed):
    if kind == "1d" and "memory_format" in changed:
        pytest.skip("a sequence has one memory format")
    read = layer(kind).to(**changed)
    called = copy.deepcopy(read)
    for name in LAYERS[kind][3]:
        put(called, name, Called)
    x = inputs(kind)[0].detach().to(**changed)
    one, other = called(x), read(x)
    assert (one.dtype, one.stride()) == (other.dtype, other.stride())
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 if one.dtype == torch.bfloat16 else 1e-12)


@places
def test_under_autocast_a_called_module_changes_no_dtype(kind, name):
    read = layer(kind).float()
    called = copy.deepcopy(read)
    put(called, name, Called)
    x, *more = (each.detach().float() if isinstance(each, Tensor) else each for each in inputs(kind))
    with torch.autocast("cpu", torch.bfloat16):
        one, other = called(x, *more), read(x, *more)
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


@places
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_what_is_put_on_a_module_acts(kind, name, wrap):
    plain = layer(kind)
    expected = copy.deepcopy(plain)
    put(expected, name, Called)
    wrapped = copy.deepcopy(plain)
    torch.manual_seed(2)
    put(expected, f"{name}.module", WRAPPERS[wrap])
    torch.manual_seed(2)
    put(wrapped, name, WRAPPERS[wrap])
    arguments = inputs(kind)
    found = wrapped.eval()(*arguments)
    torch.testing.assert_close(found, expected.eval()(*arguments), rtol=1e-11, atol=1e-12)
    # softmax sees no constant in p
    if not (name == "position" and wrap == "pruned bias"):
        assert (found - plain(*arguments)).abs().max() > 1e-4
    found.square().sum().backward()
    grads = {key: parameter.grad for key, parameter in wrapped.named_parameters() if key.startswith(f"{name}.")}
    assert grads
    for key, grad in grads.items():
        assert grad is not None, key


@places
def test_a_pruned_module_keeps_its_mask_through_training(kind, name):
    wrapped = layer(kind)
    module = wrapped.get_submodule(name)
    prune.l1_unstructured(module, "weight", amount=0.5)
    optimizer = torch.optim.SGD(wrapped.parameters(), 1e-5)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = wrapped(*inputs(kind)).square().sum()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
        assert module.weight_orig.grad.abs().sum() > 0
        assert torch.equal(module.weight_orig.grad == 0, module.weight_mask == 0)
    assert len(set(seen)) == 3
    wrapped(*inputs(kind))
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    prune.remove(module, "weight")
    assert is_plain(module, type(module))


@places
def test_hooks_fire_and_change_gradients(kind, name):
    wrapped = layer(kind)
    module = wrapped.get_submodule(name)
    seen = []
    handles = [
        module.register_forward_pre_hook(lambda *_: seen.append("before")),
        module.register_forward_hook(lambda *_: seen.append("forward")),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
        module.register_full_backward_pre_hook(lambda *_: seen.append("before backward")),
    ]
    wrapped(*inputs(kind)).square().sum().backward()
    assert sorted(seen) == ["backward", "before", "before backward", "forward"]
    for handle in handles:
        assert not is_plain(module, type(module))
        handle.remove()
    assert is_plain(module, type(module))
    if name != "position":  # whose input asks for no gradient
        before = results(wrapped, inputs(kind))[1]
        with_backward_hook(module)
        assert (results(wrapped, inputs(kind))[1] - before).abs().max() > 1e-6


@places
def test_hooks_on_all_modules_see_it_too(kind, name):
    wrapped = layer(kind)
    before = results(wrapped, inputs(kind))
    seen = []
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module)):
        after = results(wrapped, inputs(kind))
    assert seen.count(wrapped.get_submodule(name)) == 1
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_plain_modules_are_read_and_not_called(kind, monkeypatch):
    read = layer(kind)
    called = []
    for of in (nn.Linear, nn.Conv1d, nn.Conv2d):
        forward = of.forward
        monkeypatch.setattr(of, "forward", lambda self, x, forward=forward: called.append(self) or forward(self, x))
    read(*inputs(kind))
    names = [name for name, module in read.named_modules() if module in called]
    assert not {"query", "key", "value", "proj"} & set(names)


@pytest.mark.parametrize("name", ["query", "key", "value", "position"])
def test_another_convolution_in_a_projection_s_place_is_called(name):
    wrapped = layer("2d")
    channels = 2 if name == "position" else 3
    put(wrapped, name, lambda old: nn.Conv2d(channels, old.out_channels, 3, padding=1).double())
    module = wrapped.get_submodule(name)
    expected = copy.deepcopy(wrapped)
    put(expected, name, Called)
    assert torch.equal(wrapped(*inputs("2d")), expected(*inputs("2d")))
    module.bias = None
    assert wrapped(*inputs("2d")).shape == (2, 8, 5, 6)
    assert not acmix_can_fold(wrapped)


def acmix_can_fold(layer: Any) -> bool:
    return type(acmix.fold(nn.Sequential(layer))[0]) is not type(layer)  # type: ignore[index]


def test_dynamic_quantisation_works_as_on_any_network():
    for kind in ("window", "global", "reduction"):
        plain = layer(kind).float()
        x, *more = inputs(kind)
        quantised = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, torch.qint8)
        assert type(quantised.proj).__module__ == "torch.ao.nn.quantized.dynamic.modules.linear"
        with torch.no_grad():
            exact, found = plain(x.float(), *more), quantised(x.float(), *more)
        assert not torch.equal(found, exact)
        assert (found - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["window", "2d"])
def test_a_wrapped_layer_compiles_into_one_graph(kind):
    torch._dynamo.reset()
    wrapped = layer(kind)
    compiled = torch.compile(wrapped, backend="aot_eager", fullgraph=True)
    arguments = inputs(kind)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            torch.testing.assert_close(compiled(*arguments), wrapped(*arguments))
    for name in LAYERS[kind][3]:
        put(wrapped, name, LowRank)
    torch.testing.assert_close(compiled(*arguments), wrapped(*arguments))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for one, other in zip(results(compiled, arguments), results(wrapped, arguments), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wrap", [*WRAPPERS, "on the path", "around the path", "on the layer"])
@places
def test_folding_loses_nothing_that_was_put_on(kind, name, wrap):
    wrapped: Any = layer(kind)
    if wrap == "on the path":
        prune.l1_unstructured(wrapped.conv_path, "kernels", amount=0.5)
    elif wrap == "around the path":
        put(wrapped, "conv_path", Halved)
    elif wrap == "on the layer":
        wrapped.register_forward_hook(lambda module, inputs, output: output.abs())
    else:
        put(wrapped, name, WRAPPERS[wrap])
    arguments = inputs(kind)
    before = wrapped.eval()(*arguments)
    folded: Any = acmix.fold(wrapped)
    torch.testing.assert_close(folded(*arguments), before, rtol=1e-10, atol=1e-11)
    assert type(folded) is type(wrapped)
    assert folded.rates()[0] is not None
    if wrap == "around the path":
        return
    # what nobody touched is folded all the same: two heads leave fewer maps than nine taps
    folds = wrap != "on the path" and kind != "1d"
    assert (folded.conv_path.kernels.shape != wrapped.conv_path.kernels.shape) == folds


@pytest.mark.parametrize("kind", ["patchwise", "pairwise"])
@pytest.mark.parametrize("place", ["qkv", "reduce", "expand", "norm1", "norm2"])
def test_vector_attention_calls_its_modules_and_folds_no_wrapped_one(kind, place):
    torch.manual_seed(0)
    wrapped = (PatchwiseAttention if kind == "patchwise" else PairwiseAttention)(32, 3).double().eval()
    x = torch.randn(2, 32, 4, 5, dtype=torch.float64)
    before = wrapped(x)
    module: Any = wrapped.get_submodule(place)
    parametrize.register_parametrization(module, "weight", Doubled())
    after = wrapped(x)
    assert (after - before).abs().max() > 1e-6
    torch.testing.assert_close(acmix.fold(wrapped)(x), after, rtol=1e-10, atol=1e-11)
    kept: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    module.register_full_backward_hook(lambda *_: None)
    results(wrapped, (x.requires_grad_(),))
    if place.startswith("norm"):
        assert kept[0].min() < 0, "a norm's output that a hook keeps is not changed afterwards"


def test_a_parametrised_path_is_folded_by_nobody():
    wrapped = layer("2d")
    parametrize.register_parametrization(wrapped.conv_path, "kernels", Doubled())
    folded = acmix.fold(nn.Sequential(wrapped))
    torch.testing.assert_close(folded(inputs("2d")[0]), wrapped(inputs("2d")[0]))


def test_gated_layers_keep_what_was_put_on_either_part():
    for place in ("0.conv", "0.acmix.query", "0.acmix", "0"):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)).double()
        model = acmix.replace_conv(model, identity=True)
        nn.init.constant_(model[0].gate, 0.7)
        x = inputs("2d")[0]
        before = model(x)
        model.get_submodule(place).register_forward_hook(lambda module, inputs, output: 2 * output)
        after = model(x)
        assert (after - before).abs().max() > 1e-6
        torch.testing.assert_close(acmix.fold(model)(x), after, rtol=1e-10, atol=1e-11)


def test_a_convolution_that_somebody_wrapped_is_replaced_only_beside_itself():
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False)).double()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    with pytest.raises(UsageError, match=r"convolution '0' has hooks, pruned or parametrised weights.* identity=True"):
        acmix.replace_conv(model)
    x = inputs("2d")[0]
    before = model(x)
    replaced: Any = acmix.replace_conv(model, identity=True)
    assert replaced[0].start == "gated"
    assert torch.equal(replaced(x), before)
    assert prune.is_pruned(replaced[0].conv)


def test_attention_weights_are_shown_to_who_watches_them():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    seen = torch.rand(5, 5, generator=draw) < 0.7
    seen.fill_diagonal_(True)
    bias = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    cases: list[dict[str, Any]] = [{}, dict(mask=seen), dict(mask=bias), dict(is_causal=True)]
    for more in cases:
        drop, weights = nn.Dropout(0.5).eval(), []
        expected = softmax_attention(q, k, v, drop, **more)
        drop.register_forward_hook(lambda module, inputs, output, weights=weights: weights.append(output))
        torch.testing.assert_close(softmax_attention(q, k, v, drop, **more), expected)
        assert weights[0].shape == (2, 2, 5, 5)
        torch.testing.assert_close(weights[0].sum(3), torch.ones(2, 2, 5, dtype=torch.float64))


def test_dropout_that_is_switched_on_alone_acts_in_evaluation():
    wrapped = layer("global").eval()
    wrapped.attn_drop.p = 0.5
    exact = wrapped(*inputs("global"))
    wrapped.attn_drop.train()
    assert not torch.equal(wrapped(*inputs("global")), exact)


def test_tensors_that_are_no_ordinary_ones_are_left_to_their_module():
    class Odd(Tensor):
        pass

    module = nn.Linear(2, 2)
    assert is_plain(module, nn.Linear)
    assert not is_plain(module, nn.Conv2d)
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Odd))
    assert not is_plain(module, nn.Linear)


def test_what_modules_gave_is_overwritten_only_if_nobody_watches():
    norm = nn.BatchNorm2d(2)
    assert plain.may_overwrite(norm, nn.Identity())
    with norm.register_forward_hook(lambda *_: None):
        assert not plain.may_overwrite(nn.Identity(), norm)
    x = torch.randn(2)
    assert plain.activated(nn.ReLU(), x, norm) is x
    with norm.register_forward_hook(lambda *_: None):
        assert plain.activated(nn.ReLU(), x, norm) is not x
    assert plain.activated(nn.GELU(), x, norm) is not x
