"""Convolutions give way to ACmix2d, and the rest of the model notices nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from acmix.layers import ACmix2d
from acmix.layers.replace import GatedACmix2d, replace_conv


def small_model(**settings: object) -> nn.Sequential:
    """Two convolutions that can be replaced, one 1×1, and a normalisation."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 32, 3, **{"padding": 1, "stride": 2, **settings}),
    )


def low_rank_conv(channels_in: int, channels_out: int, heads: int, rank: int, **settings: Any) -> nn.Conv2d:
    """A convolution that the pieces of ACmix2d with so many heads can hold."""
    conv = nn.Conv2d(channels_in, channels_out, 3, bias=False, **settings).double()
    width = channels_out // heads
    matrix = torch.randn(width, heads * 9, rank).double() @ torch.randn(width, rank, channels_in).double()
    with torch.no_grad():
        conv.weight.copy_(matrix.view(width, heads, 3, 3, channels_in).permute(0, 1, 4, 2, 3).flatten(0, 1))
    return conv


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_what_is_not_replaced_keeps_its_names_and_weights() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert replace_conv(model, ["3"]) is model
    after = model.state_dict()
    assert isinstance(model[3], ACmix2d)
    for name, value in before.items():
        if not name.startswith("3."):
            assert torch.equal(after[name], value), name
    assert {name for name in after if not name.startswith("3.")} == {n for n in before if not n.startswith("3.")}


def test_a_layer_takes_over_what_the_convolution_was() -> None:
    model = small_model(stride=2, dilation=2, padding=2).double().eval().requires_grad_(False)
    model[3].i, model[3].f, model[3].type, model[3].np = 7, -1, "torch.nn.Conv2d", 1  # type: ignore[assignment]
    expected = model(torch.randn(2, 3, 9, 11).double()).shape
    layer = replace_conv(model, "3", attention_size=5)[3]  # type: ignore[index]
    assert (layer.stride, layer.dilation, layer.attention_size, layer.conv_size) == (2, 2, 5, 3)
    assert (layer.in_channels, layer.out_channels, layer.heads) == (16, 32, 4)
    assert {each.dtype for each in layer.parameters()} == {torch.float64}
    assert not layer.training
    assert not any(each.requires_grad for each in layer.parameters())
    assert (layer.i, layer.f, layer.type) == (7, -1, "acmix.layers.acmix2d.ACmix2d")
    assert layer.np == sum(each.numel() for each in layer.parameters())
    assert model(torch.randn(2, 3, 9, 11).double()).shape == expected


@pytest.mark.parametrize(
    ("select", "replaced"),
    [
        (None, ["0", "3"]),
        (["3"], ["3"]),
        (["[0-2]"], ["0"]),
        (lambda name, conv: conv.out_channels == 32, ["3"]),
    ],
)
def test_layers_are_selected_by_name_by_pattern_or_by_a_function(select: object, replaced: list[str]) -> None:
    model = replace_conv(small_model(), select)  # type: ignore[arg-type]
    assert [name for name, each in model.named_children() if isinstance(each, ACmix2d)] == replaced


@pytest.mark.parametrize(
    ("change", "select", "message"),
    [
        ({}, ["conv9"], "'conv9' matches no convolution .* there are 0, 3"),
        ({}, lambda name, conv: False, "no convolution is selected; there are 0, 3"),
        ({"padding": 0}, None, r"convolution '3' has padding=\(0, 0\); expected 1"),
        ({"groups": 4}, ["3"], "convolution '3' has groups=4"),
        ({"stride": (2, 1)}, None, r"convolution '3' has stride=\(2, 1\)"),
        ({"padding_mode": "circular"}, None, "convolution '3' has padding_mode='circular'"),
    ],
)
def test_what_cannot_be_replaced_is_named_and_nothing_is_changed(change: dict, select: object, message: str) -> None:
    model = small_model(**change)
    with pytest.raises(ValueError, match=message):
        replace_conv(model, select)  # type: ignore[arg-type]
    assert not any(isinstance(each, ACmix2d) for each in model.modules())


def test_grouped_convolutions_are_passed_over_when_all_are_meant() -> None:
    model = replace_conv(small_model(groups=4))
    assert isinstance(model[0], ACmix2d)  # type: ignore[index]
    assert isinstance(model[3], nn.Conv2d)  # type: ignore[index]


def test_a_second_call_leaves_our_own_layers_alone() -> None:
    model = replace_conv(small_model(), identity=True)
    with pytest.raises(ValueError, match="has no convolution"):
        replace_conv(model)


def test_a_shared_convolution_stays_shared() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = replace_conv(nn.Sequential(conv, conv))
    assert isinstance(model[0], ACmix2d)  # type: ignore[index]
    assert model[0] is model[1]  # type: ignore[index]


@pytest.mark.parametrize(("heads", "rank"), [(1, 3), (2, 6), (4, 9), (4, 2)])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"padding": 2, "dilation": 2, "stride": 2}])
def test_a_convolution_of_low_rank_is_transferred_exactly(heads: int, rank: int, settings: dict) -> None:
    torch.manual_seed(0)
    conv = low_rank_conv(20, 16, heads, rank, **settings)
    layer = replace_conv(copy.deepcopy(conv), identity=True, heads=heads)
    assert isinstance(layer, ACmix2d)
    assert layer.start == "transferred"
    for size in ((9, 7), (1, 1)):
        x = torch.randn(2, 20, *size).double()
        assert relative_error(layer(x), conv(x)) < 1e-12
        assert relative_error(layer.float()(x.float()).double(), conv(x)) < 1e-5
        layer = replace_conv(copy.deepcopy(conv), identity=True, heads=heads)


@pytest.mark.parametrize("bias", [True, False])
def test_any_other_convolution_is_kept_behind_a_gate(bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(20, 16, 3, padding=1, bias=bias).double()
    layer = replace_conv(conv, identity=True)
    assert isinstance(layer, GatedACmix2d)
    assert layer.start == "gated"
    x = torch.randn(2, 20, 6, 7).double()
    assert torch.equal(layer(x), conv(x))
    assert pickle.loads(pickle.dumps(layer)).start == copy.deepcopy(layer).start == "gated"


@pytest.mark.parametrize(
    "conv",
    [low_rank_conv(20, 16, 2, 6, padding=1), nn.Conv2d(20, 16, 3, padding=1).double()],
    ids=["transferred", "gated"],
)
def test_every_weight_learns_after_the_first_step(conv: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = replace_conv(conv, identity=True, heads=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.randn(2, 20, 6, 7).double()
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    # what all keys share cancels in the softmax: the position's bias learns nothing in any ACmix2d
    still = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-14]
    assert [n for n in still if not n.endswith("position.bias")] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pretrained_network_is_unchanged_at_step_0(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10).to(dtype).eval()
    x = torch.randn(2, 3, 32, 32, dtype=dtype)
    with torch.no_grad():
        expected = model(x)
        changed = replace_conv(model, ["conv1", "layer[13].*.conv2"], identity=True)
        error = relative_error(changed(x), expected)
    starts = {name: each.start for name, each in changed.named_modules() if hasattr(each, "start")}
    starts = {name: start for name, start in starts.items() if not name.endswith(".acmix")}
    assert (starts["conv1"], starts["layer3.1.conv2"], len(starts)) == ("transferred", "gated", 5)
    assert error < (1e-12 if dtype == torch.float64 else 1e-5)


def test_a_checkpoint_from_before_the_replacement_loads_into_gated_layers():
    before = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).double()
    after: Any = replace_conv(copy.deepcopy(before), ["2"], identity=True)
    assert after[2].start == "gated"
    with torch.no_grad():
        after[2].conv.weight.zero_()
    after.load_state_dict(before.state_dict())
    x = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    assert torch.equal(after(x), before(x))
    # its own checkpoints load as ever, and what is missing from them is still missed
    own = after.state_dict()
    after.load_state_dict(own)
    with pytest.raises(RuntimeError, match="Missing key"):
        after.load_state_dict({key: value for key, value in own.items() if key != "2.gate"})
