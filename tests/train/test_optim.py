"""What moves the weights: which are decayed, by how much they move at which step, in which number format."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import nn

from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.train.optim import Precision, create_optimizer
from tests.support.tiny import tiny_config

CPU = torch.device("cpu")
# timm's optimizers that every installation has
NAMES = ["adamw", "sgd", "lamb", "lion", "adan", "nadamw", "adafactor", "rmsprop", "muon", "madgrad", "laprop"]


def test_no_decay_for_vectors_biases_rates_and_position_tables() -> None:
    config = tiny_config("")
    model = build_model(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = create_optimizer(model, config, 8).param_groups
    decayed = {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}
    free = {names[id(parameter)] for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert decayed | free == set(names.values())
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    assert not [
        name
        for name in decayed
        if model.get_parameter(name).ndim < 2 or name.endswith(("bias", "bias_table")) or "rate_" in name
    ]
    assert {"layers.0.blocks.0.attn.rate_conv", "layers.0.blocks.0.attn.relative_position_bias_table"} <= free
    assert "layers.0.blocks.0.attn.qkv.weight" in decayed


def decayed_by(*overrides: str) -> set[str]:
    """The last parts of the names of what is decayed."""
    config = tiny_config("", *overrides)
    model = build_model(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = create_optimizer(model, config, 8).param_groups
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {names[id(each)] for group in groups if group["weight_decay"] for each in group["params"]}


def test_detection_recipes_decay_biases_or_all_but_never_the_rates() -> None:
    block = "layers.0.blocks.0"
    usual, norms, nothing = (
        decayed_by(*given) for given in ([], ["optimizer.no_decay=norms"], ["optimizer.no_decay=nothing"])
    )
    assert usual < norms < nothing
    assert f"{block}.attn.qkv.bias" in norms - usual
    assert {f"{block}.norm1.weight", f"{block}.attn.relative_position_bias_table"} <= nothing - norms
    assert not [name for name in nothing if "rate_" in name]


def test_layers_of_other_rates_do_not_go_with_another_decay() -> None:
    with pytest.raises(UsageError, match=r"does not go with optimizer\.layer_decay"):
        decayed_by("optimizer.no_decay=norms", "optimizer.layer_decay=0.8")


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_of_timm_moves_every_weight(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    optimizer = create_optimizer(model, tiny_config("", f"optimizer.name={name}"), 8)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    precision = Precision("fp32", CPU)
    for _ in range(2):
        precision.backward(model(torch.randn(8, 6)).square().mean())
        assert precision.step(optimizer, model.parameters(), 5.0) > 0
    assert not [i for i, parameter in enumerate(model.parameters()) if torch.equal(parameter, before[i])]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.name=adamw", "optimizer.betas=[0.8, 0.98]"], dict(betas=(0.8, 0.98))),
        (["optimizer.name=adamw", "optimizer.eps=1e-6"], dict(eps=1e-6)),
        (["optimizer.name=momentum", "optimizer.momentum=0.7"], dict(momentum=0.7, nesterov=False)),
        (["optimizer.name=sgd", "optimizer.momentum=0.7"], dict(momentum=0.7, nesterov=True)),
        (["optimizer.lr=0.5"], dict(lr=0.5)),
        (["optimizer.lr=0.5", "optimizer.base_batch_size=4"], dict(lr=1.0)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_set_reaches_the_optimizer(overrides: list[str], expected: dict[str, object]) -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), tiny_config("", *overrides), 8)
    for group in optimizer.param_groups:
        found = {name: tuple(group[name]) if name == "betas" else group[name] for name in expected}
        assert found == expected


@pytest.mark.parametrize(
    ("name", "said"), [("adamww", "did you mean 'adamw'?"), ("adahessian", "needs second derivatives; choose another")]
)
def test_an_optimizer_that_cannot_be_used_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        create_optimizer(nn.Linear(2, 2), tiny_config("", f"optimizer.name={name}"), 8)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_whose_package_is_missing_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"optimizer.name='bnbadam' cannot be used here: .*choose another"):
        create_optimizer(nn.Linear(2, 2), tiny_config("", "optimizer.name=bnbadam"), 8)


def test_the_gradient_is_clipped_as_a_whole_and_its_norm_before_is_returned() -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer.weight.detach().clone()
    precision = Precision("fp32", CPU)
    precision.backward(layer(torch.full((1, 3), 100.0)).sum())
    norm = precision.step(optimizer, layer.parameters(), 0.5)
    assert norm.item() == pytest.approx(math.sqrt(3) * 100)
    assert (layer.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_half_precision_needs_a_gpu_and_formats_have_names() -> None:
    assert Precision("auto", CPU).name == "fp32"
    assert Precision("bf16", CPU).dtype == torch.bfloat16
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU; use fp32 or bf16 on a CPU"):
        Precision("fp16", CPU)
    with pytest.raises(UsageError, match=r"train\.precision='fp8'; expected auto, fp32, bf16, fp16"):
        Precision("fp8", CPU)


@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("adam", True), ("sgd", True), ("lamb", False)])
def test_torchs_optimizers_are_fused(name: str, fused: bool) -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), tiny_config("", f"optimizer.name={name}"), 8)
    assert bool(optimizer.defaults.get("fused")) is fused
