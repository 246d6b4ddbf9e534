"""Features: the right maps of every family, for images of any size."""

from __future__ import annotations

import pytest
import torch
from timm.optim import create_optimizer_v2

from acmix.errors import UsageError
from acmix.heads.features import Features
from acmix.models import create_model
from tests.heads.tiny import TINY

SWIN = "acmix_swin_tiny_patch4_window7_224"
DEIT = "acmix_deit_tiny_patch16_224"


def sides(height: int, width: int, strides: list[int]) -> list[tuple[int, int]]:
    return [(-(-height // each), -(-width // each)) for each in strides]


@pytest.mark.parametrize("name", TINY)
def test_maps_have_strides_4_to_32_at_any_size(name: str) -> None:
    features = Features(name, **TINY[name]).eval()
    assert features.strides == ([16] if name == DEIT else [4, 8, 16, 32])
    for size in ((67, 101), (1, 70), (33, 1), (1, 1), (64, 64)):
        maps = features(torch.randn(2, 3, *size))
        assert [tuple(each.shape[2:]) for each in maps] == sides(*size, features.strides)
        assert [each.shape[1] for each in maps] == features.channels


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "convnext_atto"])
def test_networks_of_timm_take_any_size_too(name: str) -> None:
    features = Features(name).eval()
    maps = features(torch.randn(1, 3, 67, 101))
    assert [tuple(each.shape[2:]) for each in maps] == sides(67, 101, features.strides)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "pvt_v2_b0", "swinv2_tiny_window8_256", "vgg11"])
def test_larger_networks_of_timm_take_any_size_too(name: str) -> None:
    features = Features(name).eval()
    for size in ((67, 101), (1, 40)):
        maps = features(torch.randn(1, 3, *size))
        assert [tuple(each.shape[2:]) for each in maps] == sides(*size, features.strides)


def test_images_that_divide_give_what_timm_gives() -> None:
    torch.manual_seed(0)
    features = Features(SWIN, **TINY[SWIN]).eval()
    torch.manual_seed(0)
    alone = create_model(SWIN, features_only=True, **TINY[SWIN]).eval()
    x = torch.randn(1, 3, 64, 96)
    for ours, timms in zip(features(x), alone(x), strict=True):
        assert torch.equal(ours, timms)


def test_levels_choose_maps() -> None:
    features = Features(SWIN, levels=(1, 3), **TINY[SWIN])
    assert features.strides == [8, 32]
    assert features.channels == [16, 64]
    assert len(features(torch.randn(1, 3, 64, 64))) == 2


@pytest.mark.parametrize("levels", [(), (4,), (1, 0), (-1,), (1, 1)])
def test_levels_that_are_not_there_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="which has 4 maps, of strides 4, 8, 16, 32"):
        Features(SWIN, levels=levels, **TINY[SWIN])


def test_the_plain_form_has_no_paths() -> None:
    plain = Features(SWIN, conv_path=False, **TINY[SWIN])
    assert not any("conv_path" in name for name, _ in plain.named_parameters())


def test_a_classifiers_weights_fit_the_network() -> None:
    classifier = create_model(SWIN, **TINY[SWIN])
    features = Features(SWIN, **TINY[SWIN])
    wanted, given = features.network.state_dict(), classifier.state_dict()
    assert wanted.keys() <= given.keys()
    features.network.load_state_dict({name: given[name] for name in wanted})


def test_rates_and_bias_tables_are_not_decayed() -> None:
    features = Features(SWIN, **TINY[SWIN])
    optimizer = create_optimizer_v2(features, opt="adamw", lr=1e-3, weight_decay=0.05)
    parameters = dict(features.named_parameters())
    names = features.no_weight_decay()
    assert names
    assert names <= parameters.keys()
    decayed = [group for group in optimizer.param_groups if group["weight_decay"]]
    kept = {id(each) for group in decayed for each in group["params"]}
    assert not any(id(parameters[name]) in kept for name in names)


@pytest.mark.parametrize("name", [*TINY, "resnet10t"])
def test_layer_decay_gives_the_stem_the_lowest_rate(name: str) -> None:
    features = Features(name, **TINY.get(name, {}))
    optimizer = create_optimizer_v2(features, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scales = {id(each): group["lr_scale"] for group in optimizer.param_groups for each in group["params"]}
    first = next(id(each) for each in features.network.parameters() if each.ndim == 4)
    assert scales[first] == min(scales.values()) < max(scales.values())


@pytest.mark.parametrize("name", TINY)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    features = Features(name, **TINY[name])
    x = torch.randn(2, 3, 40, 56)
    grads = []
    for enable in (False, True):
        features.set_grad_checkpointing(enable)
        features.zero_grad()
        torch.stack([each.square().mean() for each in features(x)]).sum().backward()
        grads.append([each.grad for each in features.parameters()])
    for before, after in zip(*grads, strict=True):
        assert torch.equal(before, after)


def test_an_unknown_backbone_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'acmix_resnet50'"):
        Features("acmix_resnet5")


def test_arguments_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"depth=3: .* takes no such argument"):
        Features(SWIN, depth=3)
    with pytest.raises(UsageError) as error:
        Features(SWIN, embed_dim=7, num_heads=(2, 2, 2, 2))
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError):
        Features("resnet10t", nonsense=3)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **arguments: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("acmix.heads.features.create_model", unreachable)
    with pytest.raises(UsageError, match="cannot download the weights of 'resnet18': no route to host; download them"):
        Features("resnet18", pretrained=True)
