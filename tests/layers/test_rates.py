"""α and β by block, of every layer that mixes, wrapped or not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import acmix
from acmix.errors import UsageError
from acmix.layers import GatedACmix2d, Mixed, Mixing, PathRates, path_rates
from acmix.models.build import build_model
from tests.support.processes import Forked
from tests.support.tiny import tiny_config

SWIN: dict[str, Any] = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "img_size": 32}
NETWORKS = {
    "acmix_swin_tiny_patch4_window7_224": SWIN,
    "acmix_deit_tiny_patch16_224": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
    "acmix_pvt_tiny": {"depths": [1, 1, 1, 1], "img_size": 64},
    "acmix_san10": {"layers": [1, 1]},
    "acmix_resnet26": {"width": 16, "layers": [1, 1, 1, 1]},
}


def distinct(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Gives every mixed layer rates of its own, and says which by the names that PyTorch has for the layers."""
    given = {}
    for number, (name, module) in enumerate(model.named_modules()):
        if isinstance(module, Mixed) and hasattr(module, "rate_attention"):
            given[name] = (1 + number / 8, -number / 4)
            for rate, value in zip((module.rate_attention, module.rate_conv), given[name], strict=True):
                nn.init.constant_(rate, value)
    return given


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_gives_the_rates_of_its_blocks_in_order_attention_first(name: str) -> None:
    args: Any = NETWORKS[name]
    model = acmix.create_model(name, num_classes=3, **args)
    given = distinct(model)
    found = path_rates(model)
    assert len(found) >= 1
    assert list(found.items()) == list(given.items())
    assert all(type(rate) is float for both in found.values() for rate in both)
    assert path_rates(acmix.create_model(name, num_classes=3, conv_path=False, **args)) == {}


@pytest.mark.parametrize("layer", [acmix.ACmix2d(8, 8), acmix.ACmix1d(8, 8)], ids=["2d", "1d"])
def test_a_single_layer_has_the_name_that_pytorch_gives_it(layer: nn.Module) -> None:
    assert path_rates(layer) == {"": (0.5, 0.5)}
    assert path_rates(nn.Sequential(nn.Identity(), layer)) == {"1": (0.5, 0.5)}
    assert path_rates(nn.Linear(2, 2)) == {}


def test_a_timm_model_with_added_paths_starts_at_its_attention_alone() -> None:
    model = acmix.add_conv_path("swin_tiny_patch4_window7_224", pretrained=False, **SWIN, num_classes=3)
    assert list(path_rates(model).values()) == [(1.0, 0.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [
        (Mixing(rates="softmax"), {"": (0.5, 0.5)}),
        (Mixing(rates=0.25), {"": (0.25, 0.25)}),
        (Mixing(rates=(2.0, -1.0)), {"": (2.0, -1.0)}),
        (Mixing(path="attention"), {}),
        (Mixing(path="convolution"), {}),
    ],
    ids=str,
)
def test_each_way_to_mix_is_told_by_the_numbers_that_multiply(mixing: Mixing, expected: dict[str, object]) -> None:
    assert path_rates(acmix.ACmix2d(8, 8, mixing=mixing)) == expected


def test_a_gate_multiplies_both_rates_of_the_convolution_it_stands_beside() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1))
    acmix.replace_conv(model, identity=True)
    gated = next(module for module in model if isinstance(module, GatedACmix2d))
    name = next(name for name, module in model.named_modules() if module is gated)
    assert path_rates(model)[name] == (0.0, 0.0)
    nn.init.constant_(gated.gate, -0.5)
    nn.init.constant_(gated.acmix.rate_conv, 3.0)
    assert path_rates(model)[name] == (-0.25, -1.5)
    # with the convolution taken away, the rates times the two paths are what is left
    x = torch.randn(1, gated.conv.in_channels, 5, 6)
    attention, conv = copy.deepcopy(gated.acmix), copy.deepcopy(gated.acmix)
    for layer, rates in ((attention, (1.0, 0.0)), (conv, (0.0, 1.0))):
        for rate, value in zip((layer.rate_attention, layer.rate_conv), rates, strict=True):
            nn.init.constant_(rate, value)
    torch.testing.assert_close(gated(x) - gated.conv(x), -0.25 * attention(x) - 1.5 * conv(x))


@pytest.mark.slow
def test_wrappers_leave_the_names_of_the_blocks_alone() -> None:
    model = build_model(tiny_config(""))
    expected = distinct(model)
    compiled: Any = torch.compile(model)
    twice: Any = torch.compile(nn.DataParallel(compiled))
    wrapped = (compiled, twice, nn.DataParallel(model), AveragedModel(model), checkpoint_wrapper(copy.deepcopy(model)))
    for each in wrapped:
        assert path_rates(each) == expected
    part = copy.deepcopy(model)
    part.layers[0].blocks[0] = checkpoint_wrapper(part.layers[0].blocks[0])  # type: ignore[index, union-attr]
    assert path_rates(part) == expected


@pytest.mark.slow
def test_a_model_on_several_processes_keeps_its_names(tmp_path: Path) -> None:
    model = build_model(tiny_config(""))
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        assert path_rates(DistributedDataParallel(torch.compile(model))) == path_rates(model) != {}  # type: ignore[arg-type]
    finally:
        dist.destroy_process_group()


def ask_in_shards() -> None:
    """One process holds a rate, and both read it."""
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = build_model(tiny_config(""))
    expected = distinct(model)
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    assert path_rates(model) == expected


@pytest.mark.slow
def test_both_processes_read_the_rates_of_a_sharded_model() -> None:
    for end in Forked(ask_in_shards, processes=2).finish():
        assert end.status == 0, end.errors[-2000:]


def test_a_module_named_module_beside_others_is_no_wrapper() -> None:
    class Neck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.act = acmix.ACmix2d(8, 8), nn.ReLU()

    assert list(path_rates(nn.Sequential(Neck()))) == ["0.module"]


def test_a_layer_that_stands_in_two_places_is_told_once() -> None:
    layer = acmix.ACmix2d(8, 8)
    assert list(path_rates(nn.Sequential(layer, nn.ReLU(), layer))) == ["0"]


def test_what_has_no_rates_to_read_is_refused_with_what_to_do() -> None:
    model = build_model(tiny_config(""))
    for folded in (acmix.fold(model), acmix.fold(acmix.ACmix2d(8, 8)), nn.Sequential(acmix.fold(model))):
        with pytest.raises(UsageError, match=r"weights hold the rates; ask before acmix\.fold"):
            path_rates(folded)
    gated = acmix.replace_conv(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), identity=True)
    with pytest.raises(UsageError, match=r"ask before acmix\.fold"):
        path_rates(acmix.fold(gated))
    with pytest.raises(UsageError, match="'meta'; load its weights first"):
        path_rates(build_model(tiny_config("")).to("meta"))
    with pytest.raises(UsageError, match=r"got a str; expected a module; load it first: model, info = acmix\.load"):
        path_rates("runs/digits")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"got a dict; expected a module$"):
        path_rates({})  # type: ignore[arg-type]


def test_reading_the_rates_keeps_gradients_as_they_are() -> None:
    layer = acmix.ACmix2d(8, 8).to(torch.bfloat16)
    rates = path_rates(layer)[""]
    assert isinstance(rates, PathRates)
    assert (rates.attention, rates.conv, rates.share) == (0.5, 0.5, 0.5)
    assert layer.rate_attention.requires_grad
    assert layer.rate_attention.grad is None
    assert PathRates(-3.0, 1.0).share == 0.25
    assert PathRates(0.0, 0.0).share == 0.5
