"""The paper's ablations: which path, which rates, which kernels, how they start, and in which stages."""

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import acmix
from acmix import config
from acmix.errors import UsageError
from acmix.layers import ACmix2d, ConvPath, Mixed, Mixing, WindowAttention, path_rates, rate_names
from acmix.models.build import build_model

SWIN: dict[str, Any] = dict(
    img_size=32, embed_dim=12, depths=(1, 2), num_heads=(2, 3), window_size=4, mlp_ratio=1.0, num_classes=4
)
RESNET: dict[str, Any] = dict(layers=(1, 1), width=8, heads=2, attention_size=3, num_classes=4)
FAMILIES = {"acmix_swin_tiny_patch4_window7_224": SWIN, "acmix_resnet26": RESNET}
ABLATIONS = [
    dict(path="attention"),
    dict(path="convolution"),
    dict(rates=1.0),
    dict(rates=0.5),
    dict(rates="softmax"),
    dict(rates=(1.0, 0.0)),
    dict(conv_kernels="channel"),
    dict(conv_kernels="frozen"),
    dict(conv_kernels="shifts"),
    dict(conv_init="random"),
    dict(conv_kernels="frozen", conv_init="random"),
    dict(path="convolution", conv_kernels="shifts"),
    dict(conv_stages=(1,)),
    dict(conv_stages=()),
]


def model(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return acmix.create_model(name, **FAMILIES[name], **kwargs)


def layers(network):
    return [module for module in network.modules() if isinstance(module, Mixed)]


def stirred(module):
    """The same module in float64, with every parameter away from where it starts."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.double()


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_ablation_trains_each_of_its_parameters_and_folds(name, ablation):
    network = model(name, **ablation)
    x = torch.randn(2, 3, 32, 32)
    out = network(x)
    # twice, as what hangs on a rate of 0 moves from the second step on
    for _ in range(2):
        network.zero_grad()
        network(x).square().sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(1e-3 * parameter.grad)
    assert out.shape == (2, 4)
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert all(parameter.grad.any() for name, parameter in network.named_parameters() if "conv_path" in name)
    network.double().eval()
    with torch.no_grad():
        torch.testing.assert_close(acmix.fold(network)(x.double()), network(x.double()), rtol=1e-9, atol=1e-11)


def test_the_paths_default_is_the_papers():
    for name in FAMILIES:
        plain, spelt = model(name), model(name, path="both", rates="learned", conv_kernels="full", conv_init="shift")
        assert plain.state_dict().keys() == spelt.state_dict().keys()
        for ours, theirs in zip(plain.parameters(), spelt.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_swin_with_attention_alone_is_plain_swin():
    name = "acmix_swin_tiny_patch4_window7_224"
    plain = model(name, conv_path=False)
    assert list(model(name, path="attention").state_dict()) == list(plain.state_dict())
    assert list(model(name, conv_stages=()).state_dict()) == list(plain.state_dict())


def test_resnet_with_attention_alone_keeps_the_attention_and_with_no_stage_is_plain_resnet():
    network = model("acmix_resnet26", path="attention")
    assert all(layer.conv_path is None and layer.has_attention for layer in layers(network))
    assert len(layers(network)) == 2
    plain = model("acmix_resnet26", conv_path=False)
    assert list(model("acmix_resnet26", conv_stages=()).state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(("name", "stages", "counts"), [(name, (1,), (0, 1)) for name in FAMILIES])
def test_only_the_stages_that_are_named_are_mixed(name, stages, counts):
    network = model(name, conv_stages=stages)
    names = [key for key in network.state_dict() if "conv_path.kernels" in key]
    prefixes = ("layers.0.", "layers.1.") if "swin" in name else ("layer1.", "layer2.")
    depths = (1, 2) if "swin" in name else (1, 1)
    for prefix, count, depth in zip(prefixes, counts, depths, strict=True):
        assert sum(key.startswith(prefix) for key in names) == count * depth


def test_convolution_alone_has_neither_rates_nor_what_attention_needs():
    for name in FAMILIES:
        network = model(name, path="convolution")
        assert rate_names(network) == set()
        assert not [
            key for key in network.state_dict() if key.endswith(("relative_position_bias_table", "position.weight"))
        ]
    layer = stirred(WindowAttention(6, 2, (2, 2), mixing=Mixing(path="convolution")))
    x = torch.randn(1, 5, 4, 6, dtype=torch.float64)
    pieces = layer.qkv(x).view(1, 5, 4, 6, 3)
    torch.testing.assert_close(layer(x, (1, 1)), layer.conv_path(pieces, (1, 1)))


@pytest.mark.parametrize(
    ("rates", "expected", "names"),
    [
        ("learned", (0.5, 0.5), ["rate_attention", "rate_conv"]),
        ((1.0, 0.25), (1.0, 0.25), ["rate_attention", "rate_conv"]),
        (1.0, (1.0, 1.0), []),
        (0.5, (0.5, 0.5), []),
        ("softmax", (0.5, 0.5), ["rate_logits"]),
    ],
    ids=str,
)
def test_rates_start_as_asked_and_weigh_the_two_paths(rates, expected, names):
    layer = WindowAttention(6, 2, (2, 2), mixing=Mixing(rates=rates))
    assert tuple(rate.item() for rate in layer.rates()) == expected
    assert sorted(rate_names(layer)) == names
    layer = stirred(layer)
    attention: Any = copy.deepcopy(layer)
    conv: Any = copy.deepcopy(layer)
    x = torch.randn(1, 4, 4, 6, dtype=torch.float64)
    alpha, beta = layer.rates()
    assert alpha is not None
    assert beta is not None
    attention.conv_path, conv.has_attention, conv.rates = None, False, lambda: (None, None)
    torch.testing.assert_close(layer(x), alpha * attention(x) + beta * conv(x))
    if rates == "softmax":
        torch.testing.assert_close((alpha + beta).item(), 1.0)
        assert alpha.item() != 0.5


def test_no_rate_is_decayed_and_all_are_logged():
    name = "acmix_swin_tiny_patch4_window7_224"
    for rates in ("learned", "softmax", 1.0):
        network = model(name, rates=rates)
        assert rate_names(network) <= network.no_weight_decay()
        found = path_rates(network)
        assert len(found) == 3
        assert all(
            rates == ((1.0, 1.0) if network.layers[0].blocks[0].attn.fixed_rate else (0.5, 0.5))
            for rates in found.values()
        )
    assert path_rates(model(name, path="attention")) == {}


@pytest.mark.parametrize(
    "geometry",
    [
        dict(),
        dict(stride=2),
        dict(dilation=2),
        dict(conv_size=5),
        dict(conv_size=(1, 3)),
        dict(bias=False),
        dict(pieces=4),
    ],
    ids=str,
)
def test_explicit_shifts_equal_kernels_that_start_as_shifts_in_output_and_every_gradient(geometry):
    paths: dict[str, Any] = {
        kind: ConvPath(2, 3, conv_kernels=kind, **geometry).double() for kind in ("shifts", "frozen", "channel", "full")
    }
    first = paths["full"]
    pieces = torch.randn(2, 5, 7, first.pieces, 3, dtype=torch.float64, requires_grad=True)
    shift = (0, 0) if "stride" in geometry else (2, -1)
    expected = None
    for kind, path in paths.items():
        with torch.no_grad():
            path.fc_weight.copy_(first.fc_weight)
            if path.fc_bias is not None:
                path.fc_bias.copy_(first.fc_bias)
        out = path(pieces, shift, rate=torch.tensor([0.7], dtype=torch.float64))
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        inputs = [each for each in (pieces, path.fc_weight, path.fc_bias) if each is not None]
        found = [out, *torch.autograd.grad((out * weights).sum(), inputs)]
        expected = expected or found
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=kind)
        torch.testing.assert_close(path.full_kernels(), first.kernels)


def test_kernels_of_a_channel_are_shared_by_its_outputs():
    one: Any
    full: Any
    one, full = ConvPath(3, 2, conv_kernels="channel").double(), ConvPath(3, 2).double()
    stirred(one)
    full.load_state_dict({**one.state_dict(), "kernels": one.full_kernels()})
    pieces = torch.randn(1, 4, 5, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(one(pieces), full(pieces))
    grads = [torch.autograd.grad(path(pieces).square().sum(), path.kernels)[0] for path in (one, full)]
    torch.testing.assert_close(grads[0], grads[1].view(2, 3, *grads[1].shape[1:]).sum(1))


def test_frozen_kernels_are_saved_and_never_trained():
    path = ConvPath(2, 3, conv_kernels="frozen", conv_init="random")
    assert "kernels" in path.state_dict()
    assert "kernels" not in dict(path.named_parameters())
    assert path.kernels.std() > 0
    assert "kernels" not in ConvPath(2, 3, conv_kernels="shifts").state_dict()


@pytest.mark.parametrize("kind", ["full", "channel", "frozen", "shifts"])
@pytest.mark.parametrize("path", ["both", "attention", "convolution"])
def test_multiply_adds_of_every_ablation_are_what_the_counter_counts(path, kind):
    layer = ACmix2d(6, 8, heads=2, stride=2, mixing=Mixing(path=path, conv_kernels=kind))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(1, 6, 9, 7))
    assert counter.get_total_flops() / 2e9 == pytest.approx(layer.gmacs(9, 7), rel=1e-12)


def test_ablations_can_be_written_in_a_configuration():
    tree: dict[str, Any] = dict(
        model=dict(name="acmix_resnet26", num_classes=4, args={**RESNET, "rates": [1.0, 0.0], "conv_stages": [1]})
    )
    tree["model"]["args"].pop("num_classes")
    network = build_model(config.validate(tree))
    (layer,) = layers(network)
    assert [rate.item() for rate in layer.rates()] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(path="conv"), "path='conv'; expected one of 'both', 'attention', 'convolution'"),
        (dict(rates="fixed"), "rates='fixed'; expected 'learned', 'softmax', a number, or a pair of numbers"),
        (dict(rates=True), "rates=True"),
        (dict(conv_kernels="none"), "conv_kernels='none'; expected one of"),
        (dict(conv_init="zero"), "conv_init='zero'; expected one of 'shift', 'random'"),
        (dict(conv_kernels="shifts", conv_init="random"), "has no kernels to initialise"),
        (dict(conv_stages=2), "conv_stages=2; expected the numbers of stages"),
        (dict(conv_stages=(0, 2)), "names stage 2; there are 0 to 1"),
    ],
    ids=str,
)
def test_what_is_no_ablation_is_refused_in_one_line(wrong, said):
    for name in FAMILIES:
        with pytest.raises(UsageError) as caught:
            model(name, **wrong)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
