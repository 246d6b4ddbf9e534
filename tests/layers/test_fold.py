"""A folded model computes the same in fewer operations, and nobody can take its weights for the model's own."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import acmix
from acmix.errors import UsageError
from acmix.layers import PatchwiseAttention, WindowAttention
from acmix.layers.fold import FoldedACmix
from acmix.tools.convert import convert
from acmix.train.checkpoint import load_weights, read, restore_model, save
from tests.support.paths import DATA

TINY = "acmix_swin_tiny_patch4_window7_224"
TOY: dict[str, Any] = dict(img_size=32, embed_dim=8, depths=(1, 2), num_heads=(1, 4), window_size=4, num_classes=5)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def drawn(module: nn.Module, seed: int = 0) -> Any:
    """The module with every parameter away from where it starts; among the rates are negative ones."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 2)
    return module.eval()


def drawn_model(name: str) -> nn.Module:
    """A small model of that name that rounding alone does not throw far off, as untrained ResNets are."""
    torch.manual_seed(0)
    sizes: dict[str, dict[str, Any]] = dict(
        swin=dict(img_size=32, embed_dim=8, num_heads=(1, 2, 4, 8)),
        resnet=dict(width=8),
        # deep products of weights and values are as badly conditioned as an untrained ResNet
        san=dict(width=32, layers=(1, 1, 1)),
        pvt=dict(embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4)),
        deit=dict(embed_dim=24, num_heads=3),
    )
    model = acmix.create_model(name, num_classes=10, **next(each for family, each in sizes.items() if family in name))
    for key, parameter in model.named_parameters():
        if key.endswith(("rate_attention", "rate_conv")):
            nn.init.normal_(parameter)
        if key.endswith("bn3.weight"):
            nn.init.constant_(parameter, 0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


def difference(one: Tensor, other: Tensor) -> float:
    """Relative to the largest value."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return ((one - other).abs().max() / other.abs().max()).item()


def same_state(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "dtype", [pytest.param(each, marks=[pytest.mark.slow] * (each != torch.float64)) for each in TOLERANCE], ids=str
)
@pytest.mark.parametrize("name", acmix.list_models())
def test_every_model_computes_the_same_folded(name: str, dtype: torch.dtype) -> None:
    model = drawn_model(name).to(dtype)
    folded = acmix.fold(model)
    assert not any(key.endswith(("rate_attention", "rate_conv")) for key in folded.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    with torch.inference_mode():
        assert difference(folded(x), model(x)) <= TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2}, {"dilation": 2}, {"stride": 2, "dilation": 3}, {"conv_size": 5}, {"conv_size": 1}],
    ids=str,
)
def test_every_layer_computes_the_same_folded(settings: dict[str, Any], heads: int, dtype: torch.dtype) -> None:
    plane = drawn(acmix.ACmix2d(6, 8, heads=heads, **settings)).to(dtype)
    line = drawn(acmix.ACmix1d(6, 8, heads=heads, **settings)).to(dtype)
    path = drawn(acmix.ConvPath(heads, 3, **settings)).to(dtype)
    x = torch.randn(2, 6, 7, 9, dtype=dtype)
    pieces = torch.randn(2, 7, 9, 3 * heads, 3, dtype=dtype)
    for seed in range(3):
        for layer, data in ((plane, x), (line, x[:, :, 0]), (path, pieces)):
            drawn(layer, seed)
            assert difference(acmix.fold(layer)(data), layer(data)) <= TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (1, 0)])
def test_window_attention_computes_the_same_folded(shift: tuple[int, int], heads: int, dtype: torch.dtype) -> None:
    layer = drawn(WindowAttention(8, heads, (4, 4))).to(dtype)
    folded = acmix.fold(layer)
    for size in ((8, 8), (5, 6), (1, 1)):
        x = torch.randn(2, *size, 8, dtype=dtype)
        assert difference(folded(x, shift), layer(x, shift)) <= TOLERANCE[dtype]


@dtypes
@pytest.mark.parametrize("rate", [0.0, -0.0, 1e-30, 5e-4, -0.02, -700.0, 3e4])
def test_a_rate_of_any_size_is_kept(rate: float, dtype: torch.dtype) -> None:
    for layer, x in (
        (acmix.ACmix2d(6, 8, heads=2), torch.randn(2, 6, 7, 9, dtype=dtype)),
        (acmix.ACmix1d(6, 8, heads=2), torch.randn(2, 6, 9, dtype=dtype)),
        (WindowAttention(8, 2, (4, 4)), torch.randn(2, 7, 9, 8, dtype=dtype)),
    ):
        drawn(layer).to(dtype)
        nn.init.constant_(layer.rate_attention, rate)
        folded = acmix.fold(layer)
        assert difference(folded(x), layer(x)) <= TOLERANCE[dtype]
        if isinstance(folded, FoldedACmix):
            assert (folded.rate_attention is None) == (2**-10 <= abs(rate) <= 2**10)


@dtypes
@pytest.mark.parametrize("gate", [0.0, 0.7, -1.3])
def test_a_gate_goes_the_way_of_the_rates(gate: float, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1, stride=2))
    drawn(acmix.replace_conv(model, identity=True)).to(dtype)
    gated = [each for each in model.modules() if hasattr(each, "gate")]
    for layer in gated:
        nn.init.constant_(layer.gate, gate)  # type: ignore[arg-type]
    folded = acmix.fold(model)
    assert gated
    assert not any(key.endswith("gate") for key in folded.state_dict())
    x = torch.randn(2, 3, 9, 11, dtype=dtype)
    assert difference(folded(x), model(x)) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("settings", "maps"),
    [
        (dict(heads=1), 4),
        (dict(heads=2), 7),
        (dict(heads=2, bias=False), 6),
        (dict(heads=3), 9),
        (dict(heads=4, pieces=6, bias=False), 6),
        (dict(heads=8, conv_size=5, bias=False), 24),
        (dict(heads=8, conv_size=5), 25),
        (dict(heads=1, conv_size=(1, 3)), 3),
        (dict(heads=1, conv_size=1), 1),
    ],
    ids=str,
)
def test_fc_goes_into_the_kernels_where_that_leaves_fewer_maps(settings: dict[str, Any], maps: int) -> None:
    path = drawn(acmix.ConvPath(head_dim=2, **settings))
    folded = acmix.fold(path)
    assert folded.kernels.shape == (path.kernels.shape[0], maps, *path.kernels.shape[2:])
    pieces = torch.randn(1, 5, 6, path.pieces, 2)
    assert difference(folded(pieces), path(pieces)) <= 1e-5


def test_folding_leaves_its_argument_and_the_draws_of_chance_alone() -> None:
    model = acmix.create_model(TINY, **TOY).train()
    twin = copy.deepcopy(model)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    before = torch.get_rng_state()
    folded = acmix.fold(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(model, twin)
    assert model.training
    assert not any(module.training for module in folded.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in folded.parameters())
    mine = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in mine for parameter in folded.parameters())


def test_a_folded_model_folds_to_itself() -> None:
    for model in (acmix.create_model(TINY, **TOY), acmix.ACmix2d(4, 4, heads=2), acmix.ACmix1d(4, 4, heads=1)):
        once = acmix.fold(drawn(model))
        twice = acmix.fold(once)
        assert twice is not once
        assert same_state(once, twice)


def test_a_model_without_acmix_gives_a_copy() -> None:
    for model in (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), acmix.create_model(TINY, **TOY, conv_path=False)):
        folded = acmix.fold(model)
        assert folded is not model
        assert same_state(folded, model)
        assert str(folded) == str(model)


def test_a_folded_model_can_be_copied_pickled_and_filled_with_its_weights() -> None:
    model, x = drawn(acmix.create_model(TINY, **TOY)), torch.randn(2, 3, 32, 32)
    folded = acmix.fold(model)
    other = acmix.fold(drawn(copy.deepcopy(model), seed=1))
    other.load_state_dict(folded.state_dict())
    with torch.no_grad():
        for twin in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded)), other):
            assert torch.equal(twin(x), folded(x))


def test_parameters_keep_their_dtype_and_whether_they_are_trained() -> None:
    layer = drawn(acmix.ACmix2d(6, 8, heads=2)).bfloat16().requires_grad_(False)
    layer.conv_path.requires_grad_(True)
    folded = acmix.fold(layer)
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.bfloat16}
    assert [key for key, each in folded.named_parameters() if each.requires_grad] == [
        "conv_path.fc_weight",
        "conv_path.kernels",
    ]
    x = torch.randn(2, 6, 7, 9).bfloat16()
    exact = copy.deepcopy(layer).double()(x.double())
    assert difference(folded(x).double(), exact) <= 8 * torch.finfo(torch.bfloat16).eps


def test_gradients_flow_through_a_folded_model() -> None:
    folded = acmix.fold(drawn(acmix.create_model(TINY, **TOY))).train()
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    folded(x).square().sum().backward()
    for name, tensor in (("x", x), *folded.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name


def test_memory_format_stays_that_of_the_input() -> None:
    folded = acmix.fold(acmix.ACmix2d(6, 8, heads=2))
    x = torch.randn(2, 6, 7, 9)
    assert folded(x).is_contiguous()
    last = folded(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, folded(x))
    assert acmix.fold(acmix.ACmix1d(6, 8))(x[:, :, 0]).is_contiguous()


def test_a_layer_in_two_places_stays_one() -> None:
    layer = drawn(acmix.ACmix2d(4, 4, heads=2))
    model = nn.Sequential(layer, nn.ReLU(), layer)
    model.again = layer
    folded: Any = acmix.fold(model)
    assert isinstance(folded[0], FoldedACmix)
    assert folded[0] is folded[2] is folded.again


def test_a_path_in_two_layers_gets_the_rate_of_each() -> None:
    first, second = drawn(WindowAttention(8, 2, (4, 4)), 1), drawn(WindowAttention(8, 2, (4, 4)), 2)
    second.conv_path = first.conv_path
    model, x = nn.Sequential(first, second), torch.randn(1, 6, 7, 8)
    assert difference(acmix.fold(model)(x), model(x)) <= 1e-5


def test_what_a_host_notes_on_a_layer_stays() -> None:
    layer = acmix.ACmix2d(4, 4)
    layer.i, layer.f, layer.type = 3, -1, "acmix.ACmix2d"  # type: ignore[assignment]
    folded = acmix.fold(layer)
    assert (folded.i, folded.f, folded.type) == (3, -1, "acmix.layers.fold.FoldedACmix")


def test_a_subclass_that_computes_something_else_is_left_alone() -> None:
    class Doubled(acmix.ACmix2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Negated(acmix.ConvPath):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return -super().forward(*args, **kwargs)

    other = acmix.ACmix2d(4, 4, heads=2)
    other.conv_path = Negated(2, 2, bias=False)
    gated: Any = acmix.replace_conv(nn.Conv2d(4, 4, 3, padding=1), identity=True)
    gated.acmix = Doubled(4, 4, heads=2)
    for layer in (Doubled(4, 4, heads=2), other, gated):
        x = torch.randn(1, 4, 5, 6)
        folded = acmix.fold(drawn(layer))
        assert type(folded) is type(layer)
        assert difference(folded(x), layer(x)) <= 1e-5


def test_a_subclass_that_says_how_it_is_folded_is_asked() -> None:
    class Doubled(acmix.ACmix2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

        def folded(self, gate: float = 1.0) -> FoldedACmix:
            return super().folded(2 * gate)

    layer, x = drawn(Doubled(4, 4, heads=2)), torch.randn(1, 4, 5, 6)
    folded = acmix.fold(nn.Sequential(layer))
    assert isinstance(folded[0], FoldedACmix)  # type: ignore[index]
    assert difference(folded(x), layer(x)) <= 1e-5


def test_a_layer_s_folded_form_leaves_the_layer_as_it_is() -> None:
    for layer, x in (
        (WindowAttention(8, 2, (4, 4)), torch.randn(2, 6, 7, 8)),
        (PatchwiseAttention(32, 3), torch.randn(2, 32, 4, 5)),
        (acmix.ACmix2d(6, 8, heads=2), torch.randn(2, 6, 9, 11)),
        (acmix.ConvPath(1, 3), torch.randn(2, 4, 5, 3, 3)),
    ):
        drawn(layer)
        before = copy.deepcopy(layer)
        assert difference(layer.folded()(x), before(x)) <= 1e-5
        assert same_state(layer, before)
        assert torch.equal(layer(x), before(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "line", "window"])
def test_a_folded_layer_compiles_to_one_graph(kind: str) -> None:
    model, x = layer_and_input(kind)
    folded = acmix.fold(model)
    torch._dynamo.reset()
    compiled = torch.compile(folded, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for data in (x, torch.cat([x, x], 2)):
            torch.testing.assert_close(compiled(data), folded(data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "line", "model"])
def test_a_folded_model_exports_with_open_sizes(kind: str) -> None:
    model, x = layer_and_input(kind)
    folded = acmix.fold(model)
    free = {dim: torch.export.Dim.DYNAMIC for dim in (0, *range(2, x.dim()))}
    program = torch.export.export(folded, (x,), dynamic_shapes=(free,))
    for data in (x, torch.cat([x, x], -1)):
        torch.testing.assert_close(program.module()(data), folded(data))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["layer", "line"])
def test_a_trace_of_a_folded_layer_needs_nothing_of_ours_and_takes_any_size(kind: str) -> None:
    model, x = layer_and_input(kind)
    folded = acmix.fold(model)
    traced: Any = torch.jit.trace(folded, x)
    assert "acmix::" not in str(traced.inlined_graph)
    for data in (x, torch.cat([x, x], -1)):
        torch.testing.assert_close(traced(data), folded(data), rtol=1e-5, atol=1e-5)


def layer_and_input(kind: str) -> tuple[nn.Module, Tensor]:
    if kind == "layer":
        return drawn(acmix.ACmix2d(6, 8, heads=2, attention_size=3, stride=2)), torch.randn(2, 6, 9, 11)
    if kind == "line":
        return drawn(acmix.ACmix1d(6, 8, heads=1)), torch.randn(2, 6, 11)
    if kind == "window":
        return drawn(WindowAttention(8, 2, (4, 4))), torch.randn(2, 6, 7, 8)
    return drawn(acmix.create_model(TINY, **TOY)), torch.randn(2, 3, 32, 36)


@pytest.mark.parametrize(("name", "sizes"), [(TINY, {}), ("acmix_resnet26", dict(width=8))])
def test_folded_weights_are_never_taken_for_the_model_s(name: str, sizes: dict[str, Any]) -> None:
    model = acmix.create_model(name, **sizes)
    weights = acmix.fold(model).state_dict()
    for refused in (
        lambda: acmix.to_official(weights, name),
        lambda: acmix.from_official(weights, name),
        lambda: load_weights(model, weights, "best.pt"),
        lambda: load_weights(acmix.fold(model), model.state_dict(), "best.pt"),
    ):
        with pytest.raises(UsageError, match=r"rate_attention|rate1|conv2") as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="rate_conv"):
        model.load_state_dict(weights)


def test_a_checkpoint_of_folded_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    whole, folded = tmp_path / "whole.pt", tmp_path / "folded.pt"
    convert(DATA / "official_checkpoint_toy.pth", whole)
    contents = read(whole)
    contents["model"] = acmix.fold(restore_model(whole).model).state_dict()
    save(folded, {key: value for key, value in contents.items() if key not in ("format", "version")})
    for use in (restore_model, lambda path: convert(path, tmp_path / "official.pth")):
        with pytest.raises(UsageError, match="rate_attention") as error:
            use(folded)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "official.pth").exists()


def test_a_wrong_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 5, 4, 4\); expected \(B, 6, H, W\)"):
        acmix.fold(acmix.ACmix2d(6, 8))(torch.randn(2, 5, 4, 4))
    with pytest.raises(UsageError, match=r"shape \(2, 6, 4, 4\); expected \(B, 6, L\)"):
        acmix.fold(acmix.ACmix1d(6, 8))(torch.randn(2, 6, 4, 4))


def test_what_cannot_be_folded_is_named() -> None:
    with pytest.raises(UsageError, match="got a dict; expected a module"):
        acmix.fold({})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="compiled model; fold the model first"):
        acmix.fold(nn.Sequential(torch.compile(acmix.ACmix2d(4, 4), backend="eager")))  # type: ignore[arg-type]
    with torch.device("meta"):
        empty = acmix.ACmix2d(4, 4)
    with pytest.raises(UsageError, match="device 'meta'; load its weights first"):
        acmix.fold(empty)
