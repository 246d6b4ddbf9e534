"""ACmix2d in forks of YOLOv5 and v7, tried on a small network of our own that follows YOLOv5's convention.

That is: rows of from, repeats, module and arguments; names looked up by `eval` in the file that holds `parse_model`;
channels scaled by a width for the modules it knows, and taken for unchanged for all others.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.integrations.yolov5 import accept_acmix, spare_rates
from acmix.layers import ACmix2d


class Conv(nn.Module):
    """A convolution, a norm, an activation."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H/s, W/s)."""
        return torch.relu(self.bn(self.conv(x)))


class Concat(nn.Module):
    """Maps beside each other."""

    def forward(self, x: list[Tensor]) -> Tensor:
        """Adds up the channels."""
        return torch.cat(x, 1)


def parse_model(d: dict[str, Any], ch: list[int]) -> tuple[nn.Sequential, list[int]]:
    """Rows to layers, by YOLOv5's convention."""
    layers: list[Any] = []
    kept = []
    for index, (source, repeats, name, arguments) in enumerate(d["backbone"] + d["head"]):
        kind = eval(name)
        many = max(round(repeats * d["depth_multiple"]), 1) if repeats > 1 else repeats
        incoming = ch[source] if isinstance(source, int) else sum(ch[each] for each in source)
        outgoing = incoming
        if kind is Conv:
            outgoing = math.ceil(arguments[0] * d["width_multiple"] / 8) * 8
            arguments = [incoming, outgoing, *arguments[1:]]
        layer: Any = nn.Sequential(*(kind(*arguments) for _ in range(many))) if many > 1 else kind(*arguments)
        layer.i, layer.f, layer.type = index, source, str(kind)
        layer.np = sum(each.numel() for each in layer.parameters())
        kept += [each % index for each in ([source] if isinstance(source, int) else source) if each != -1]
        layers.append(layer)
        ch = [outgoing] if index == 0 else [*ch, outgoing]
    return nn.Sequential(*layers), sorted(kept)


class Model(nn.Module):
    """A network that is built and run as YOLOv5's is."""

    def __init__(self, parse: Any, d: dict[str, Any]) -> None:
        super().__init__()
        self.yaml = d
        self.model, self.save = parse(copy.deepcopy(d), ch=[3])

    def forward(self, x: Any) -> Tensor:
        """(B, 3, H, W) -> the last map."""
        outputs: list[Any] = []
        layer: Any
        for layer in self.model:
            if layer.f != -1:
                x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
            x = layer(x)
            outputs.append(x if layer.i in self.save else None)
        return x


def model_file(row: list[Any], width: float = 0.5) -> dict[str, Any]:
    """A model file with a row of ACmix2d."""
    return {
        "depth_multiple": 0.34,
        "width_multiple": width,
        "backbone": [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 2]], [0, 1, "Conv", [64, 3, 2]]],
        "head": [row, [[-1, 1], 1, "Concat", []], [-1, 1, "Conv", [64, 1]]],
    }


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_a_row_has_the_right_channels_at_every_width(width: float) -> None:
    row = [-1, 1, "ACmix2d", [128, {"heads": 4, "attention_size": 5}]]
    model = Model(accept_acmix(parse_model), model_file(row, width))
    layer: Any = model.model[3]
    assert type(layer) is ACmix2d
    assert (layer.in_channels, layer.out_channels) == (64 * width, 128 * width)
    assert (layer.i, layer.f, layer.attention_size) == (3, -1, 5)
    assert layer.np == sum(each.numel() for each in layer.parameters())
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 64 * width, 8, 8)
    assert copy.deepcopy(model)(torch.rand(1, 3, 32, 64)).shape == (1, 64 * width, 8, 16)


def test_a_row_takes_any_layer_and_repeats_and_a_file_without_rows_is_as_before() -> None:
    parse = accept_acmix(parse_model)
    assert accept_acmix(parse) is parse
    several: Any = Model(parse, model_file([2, 6, "ACmix2d", [128]])).model[3]
    assert [(each.in_channels, each.out_channels) for each in several] == [(32, 64), (64, 64)]
    assert several.f == 2
    torch.manual_seed(0)
    expected = Model(parse_model, model_file([-1, 1, "Conv", [128]])).state_dict()
    torch.manual_seed(0)
    found = Model(parse, model_file([-1, 1, "Conv", [128]])).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "ACmix2d", [128, 128]], "row 3: .* 128 looks like a channel count"),
        ([-1, 1, "ACmix2d", [128, {"head": 4}]], "row 3: .* 'heads'?"),
        ([[0, 1], 1, "ACmix2d", [128]], "row 3: .* the number of one row"),
    ],
)
def test_a_wrong_row_is_named(row: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model(accept_acmix(parse_model), model_file(row))


def by_layer(model: nn.Module) -> torch.optim.Optimizer:
    """YOLOv5's groups: biases, then decayed weights and all that has another name, then norms."""
    groups: list[list[nn.Parameter]] = [[], [], []]
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            norm = name == "weight" and isinstance(layer, nn.BatchNorm2d)
            groups[0 if name == "bias" else 2 if norm else 1].append(parameter)
    optimizer = torch.optim.SGD(groups[0], lr=0.01, momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": groups[1], "weight_decay": 0.1})
    optimizer.add_param_group({"params": groups[2]})
    return optimizer


def by_name(model: nn.Module) -> torch.optim.Optimizer:
    """YOLOv7's groups, which have only what is called weight or bias: norms, decayed weights, biases."""
    groups: list[list[nn.Parameter]] = [[], [], []]
    for layer in model.modules():
        if isinstance(getattr(layer, "bias", None), nn.Parameter):
            groups[2].append(layer.bias)  # type: ignore[arg-type]
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            groups[0 if isinstance(layer, nn.BatchNorm2d) else 1].append(layer.weight)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(groups[0], lr=0.01, momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": groups[1], "weight_decay": 0.1})
    optimizer.add_param_group({"params": groups[2]})
    return optimizer


@pytest.mark.parametrize("make", [by_layer, by_name])
def test_every_parameter_is_trained_once_and_rates_are_not_decayed(make: Any) -> None:
    model = Model(accept_acmix(parse_model), model_file([-1, 1, "ACmix2d", [128]]))
    optimizer = make(model)
    assert spare_rates(model, optimizer) == 2
    assert spare_rates(model, optimizer) == 2
    trained = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert sorted(trained) == sorted(map(id, model.parameters()))
    assert len(optimizer.param_groups) == 3
    decay = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    layer: Any = model.model[3]
    assert [decay[id(each)] for each in (layer.rate_attention, layer.rate_conv)] == [0, 0]
    assert [decay[id(each)] for each in (layer.conv_path.kernels, layer.conv_path.fc_weight)] == [0.1, 0.1]
    bias_group = next(
        group for group in optimizer.param_groups if any(each is layer.query.bias for each in group["params"])
    )
    assert not any(each is layer.rate_conv for each in bias_group["params"])
    before = layer.conv_path.kernels.detach().clone(), layer.rate_conv.item()
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.conv_path.kernels, before[0])
    assert layer.rate_conv.item() != before[1]


def test_an_optimizer_without_norms_gets_one_more_group() -> None:
    model = nn.Sequential(ACmix2d(8, 8), ACmix2d(8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    assert spare_rates(model, optimizer) == 4
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(list(model.parameters())) - 4, 4]
    assert optimizer.param_groups[1]["weight_decay"] == 0
