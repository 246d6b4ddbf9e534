"""ResNet and its ACmix form: the published sizes, timm's numbers without convolution paths, its manners with them."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import acmix
from acmix.layers import ACmix2d
from acmix.models.count import cost

NAMES = [f"acmix_resnet{depth}" for depth in (26, 38, 50)]
SMALL: dict[str, Any] = dict(layers=(1, 2, 1, 1), width=8, heads=2, attention_size=3, num_classes=5)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(name: str = "acmix_resnet26", **kwargs: Any) -> Any:
    return acmix.create_model(name, **{**SMALL, **kwargs})


def test_every_resnet_is_known_to_timm():
    assert acmix.list_models("acmix_resnet*") == NAMES
    assert set(NAMES) <= set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "plain_parameters", "plain_gmacs"),
    [
        (NAMES[0], 10_487_816, 2.217, 13_696_552, 2.342),
        pytest.param(NAMES[1], 14_410_896, 2.859, 19_626_792, 3.216, marks=pytest.mark.slow),
        pytest.param(NAMES[2], 18_333_976, 3.502, 25_557_032, 4.089, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(name, parameters, gmacs, plain_parameters, plain_gmacs):
    ours, plain = cost(name), cost(name, conv_path=False)
    assert (ours.parameters, round(ours.gmacs, 3)) == (parameters, gmacs)
    assert (plain.parameters, round(plain.gmacs, 3)) == (plain_parameters, plain_gmacs)


@pytest.mark.slow
def test_plain_resnet50_computes_what_timm_computes_with_timm_s_weights():
    theirs: Any = timm.create_model("resnet50").double().eval()
    ours: Any = acmix.create_model("acmix_resnet50", conv_path=False).double().eval()
    ours.load_state_dict(theirs.state_dict())
    plain = torch.randn(2, 3, 49, 33, dtype=torch.float64)
    # ours computes channels last whatever it gets; so does timm's with such images, and then no bit differs
    x = plain.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.allclose(ours(plain), theirs(plain), rtol=1e-12, atol=1e-12)
        assert torch.equal(ours(plain), theirs(x))
        maps = ours.forward_intermediates(x, intermediates_only=True)
        for here, there in zip(maps, theirs.forward_intermediates(x, intermediates_only=True), strict=True):
            assert torch.equal(here, there)


@pytest.mark.slow
def test_plain_training_computes_what_timm_computes():
    theirs: Any = timm.create_model("resnet50", num_classes=4).double()
    ours: Any = acmix.create_model("acmix_resnet50", conv_path=False, num_classes=4).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 33, 33, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for (name, here), there in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(here.grad, there.grad, rtol=1e-9, atol=1e-9), name
    for name, there in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], there), name


def test_acmix_stands_where_the_3x3_convolutions_stood_with_their_strides():
    ours, plain = (dict(acmix.create_model("acmix_resnet38", conv_path=path).named_modules()) for path in (True, False))
    places = [name for name, module in plain.items() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    assert [name for name, module in ours.items() if isinstance(module, ACmix2d)] == places
    assert len(places) == 2 + 3 + 5 + 2
    for name in places:
        assert (ours[name].stride,) * 2 == plain[name].stride
        assert (ours[name].heads, ours[name].attention_size, ours[name].conv_size) == (4, 7, 3)
    assert [name for name in places if ours[name].stride == 2] == [f"layer{i}.0.conv2" for i in (2, 3, 4)]


def test_initialisation_leaves_the_shift_kernels_and_draws_convolutions_by_their_fan_out():
    model: Any = acmix.create_model("acmix_resnet50")
    shifts = torch.eye(9).view(9, 3, 3)
    for name, module in model.named_modules():
        if isinstance(module, ACmix2d):
            assert module.conv_path.kernels is not None
            assert torch.equal(module.conv_path.kernels, shifts.expand_as(module.conv_path.kernels)), name
            assert 0 < module.conv_path.fc_weight.abs().max() <= 12**-0.5
            assert (module.rate_attention.item(), module.rate_conv.item()) == (0.5, 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


@pytest.mark.parametrize("conv_path", [True, False])
def test_zero_init_residual_starts_every_bottleneck_as_the_identity(conv_path):
    block = small(zero_init_residual=True, conv_path=conv_path).layer2[1]
    x = torch.rand(2, 64, 6, 5)
    assert torch.equal(block(x), x)
    block = small(conv_path=conv_path).layer2[1]
    assert not torch.equal(block(x), x)


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (64, 64)])
def test_any_size_works_and_features_are_a_pyramid_from_stride_2_to_32(size):
    model = small(features_only=True).eval()
    assert model.feature_info.channels() == [8, 32, 64, 128, 256]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    maps = model(torch.randn(1, 3, *size))
    expected = [
        (1, channels, *(-(-side // reduction) for side in size))
        for channels, reduction in zip(model.feature_info.channels(), model.feature_info.reduction(), strict=True)
    ]
    assert [tuple(each.shape) for each in maps] == expected


def test_features_are_the_maps_of_the_whole_model():
    model = small().eval()
    features = small(features_only=True, out_indices=(0, 3)).eval()
    features.model.load_state_dict(
        {key: value for key, value in model.state_dict().items() if not key.startswith(("fc", "layer4"))}
    )
    x = torch.randn(2, 3, 40, 32)
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, model.forward_features(x))
        assert torch.equal(maps[-1], last)
        for here, there in zip(features(x), [maps[0], maps[3]], strict=True):
            assert torch.equal(here, there)
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        assert torch.equal(early[0], maps[1])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_the_classifier_can_be_replaced_and_taken_away():
    model = small().eval()
    x = torch.randn(2, 3, 32, 32)
    assert model(x).shape == (2, 5)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    pooled = model(x)
    assert torch.equal(pooled, model.forward_head(model.forward_features(x), pre_logits=True))
    assert pooled.shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 256, 1, 1)
    assert small(num_classes=0, in_chans=1)(torch.randn(2, 1, 64, 64)).shape == (2, 256)


def test_checkpointing_changes_neither_gradients_nor_running_statistics():
    plain = small(drop_path_rate=0.2).train()
    kept = copy.deepcopy(plain)
    kept.set_grad_checkpointing()
    x = torch.randn(3, 3, 40, 32)
    for model in (plain, kept):
        torch.manual_seed(1)
        model(x).square().sum().backward()
    for (name, here), there in zip(kept.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(here.grad, there.grad), name
    for name, there in plain.state_dict().items():
        assert torch.equal(kept.state_dict()[name], there), name
    assert {module.momentum for module in kept.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


def test_drop_path_grows_linearly_over_the_bottlenecks():
    model = small(drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for i in (1, 2, 3, 4) for block in getattr(model, f"layer{i}")]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_rates_are_not_decayed_and_every_parameter_belongs_to_a_layer():
    model = small()
    assert model.no_weight_decay() == {
        name for name, _ in model.named_parameters() if "rate_attention" in name or "rate_conv" in name
    }
    assert len(model.no_weight_decay()) == 10
    assert small(conv_path=False).no_weight_decay() == set()
    from timm.models._manipulate import group_parameters

    groups = group_parameters(model, model.group_matcher())
    assert sorted(name for names in groups.values() for name in names) == sorted(n for n, _ in model.named_parameters())
    assert len(groups) == 1 + 5 + 1


def test_one_step_of_training_reaches_every_parameter():
    model = small()
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    unreached = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # a constant added to every position leaves the softmax as it is
    assert all(name.endswith("position.bias") for name in unreached), unreached


@pytest.mark.parametrize("layers", [(), (1, 0, 1)])
def test_a_stage_without_bottlenecks_is_refused(layers):
    with pytest.raises(ValueError, match="at least one a stage"):
        small(layers=layers)


def test_every_activation_of_a_bottleneck_is_called_once():
    """A quantiser of an exported graph takes one module that is called twice for one with two outputs."""
    model, calls = small(conv_path=False).eval(), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            calls[name] = 0
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert set(calls.values()) == {1}
    assert len(calls) == 1 + 3 * sum(SMALL["layers"])
