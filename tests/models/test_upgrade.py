"""timm's models with convolution paths: the same at first, all of it trained or the new parts alone."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import acmix
from acmix import config
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.train.optim import create_optimizer

SWIN = ("swin_tiny_patch4_window7_224", dict(img_size=64, embed_dim=12, depths=(2, 2), num_heads=(2, 3), window_size=4))
VIT = ("deit_small_patch16_224", dict(img_size=64, embed_dim=24, depth=2, num_heads=3))
PVT = ("pvt_v2_b1", dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4)))
OTHERS = [
    ("deit_tiny_distilled_patch16_224", dict(img_size=64, embed_dim=24, depth=2)),
    ("vit_small_patch14_reg4_dinov2", dict(img_size=56, embed_dim=24, depth=2, num_heads=3)),
    ("deit3_small_patch16_224", dict(img_size=(64, 32), embed_dim=24, depth=2, num_heads=3)),
    ("vit_tiny_patch16_224", dict(img_size=64, embed_dim=24, depth=2, num_heads=3, qk_norm=True)),
    ("pvt_v2_b2_li", dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4))),
]


def theirs(name: str, kwargs: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **kwargs, **more).eval()


def image(model, count=2):
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or (64, 64)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "kwargs"), [SWIN, VIT, PVT, *OTHERS], ids=lambda value: str(value)[:24])
def test_at_first_the_logits_are_the_same_and_every_key_is_timms(name, kwargs):
    plain = theirs(name, kwargs)
    upgraded: Any = acmix.add_conv_path(plain)
    x = image(plain)
    with torch.no_grad():
        torch.testing.assert_close(upgraded(x), plain(x), rtol=0, atol=1e-5)
    state = upgraded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    added = {key.rpartition("attn.")[2] for key in state.keys() - plain.state_dict().keys()}
    path = {f"conv_path.{each}" for each in ("fc_weight", "fc_bias", "kernels")}
    assert added == {"rate_attention", "rate_conv", *path}
    paths, blocks = (sum(key.endswith(end) for key in state) for end in ("attn.rate_conv", "attn.proj.weight"))
    assert paths == blocks - ("deit" in name or "vit" in name) * (plain.global_pool == "token")
    assert not upgraded.training
    assert all(parameter.requires_grad for parameter in upgraded.parameters())


@pytest.mark.parametrize(("name", "kwargs"), [SWIN, VIT, PVT], ids=lambda value: str(value)[:24])
def test_the_given_model_stays_and_all_of_the_new_one_is_trained(name, kwargs):
    plain = theirs(name, kwargs)
    before = copy.deepcopy(plain.state_dict())
    upgraded: Any = acmix.add_conv_path(plain).double().train()
    optimizer = torch.optim.SGD(upgraded.parameters(), 0.1)
    start = copy.deepcopy(upgraded.state_dict())
    # β moves first, and with it what it weighs
    for _ in range(3):
        optimizer.zero_grad()
        upgraded(image(plain).double()).square().sum().backward()
        optimizer.step()
    moved = [key for key, value in upgraded.named_parameters() if not torch.equal(value, start[key])]
    still = set(start) - set(moved)
    # a bias of keys shifts all logits of a query alike, and moves by rounding or not at all
    assert not [key for key in still if not key.endswith("qkv.bias")]
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize(("name", "kwargs"), [SWIN, VIT, PVT], ids=lambda value: str(value)[:24])
def test_copies_features_and_fold_work(name, kwargs):
    plain = theirs(name, kwargs)
    upgraded: Any = acmix.add_conv_path(plain, rates=(0.7, -0.4))
    x = image(plain)
    with torch.no_grad():
        expected = upgraded(x)
        assert torch.equal(copy.deepcopy(upgraded)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(upgraded))(x), expected)
        torch.testing.assert_close(acmix.fold(upgraded)(x), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert upgraded(x).isfinite().all()
    names = [key for key, _ in upgraded.named_parameters() if "rate_" in key]
    assert len(names) == 2 * sum("conv_path.kernels" in key for key, _ in upgraded.named_parameters())
    indices = (0, 1)
    maps: Any = acmix.add_conv_path(name, pretrained=False, features_only=True, out_indices=indices, **kwargs)
    shapes = [each.shape for each in maps(x)]
    expected = [each.shape for each in timm.create_model(name, features_only=True, out_indices=indices, **kwargs)(x)]
    assert [shape[1] for shape in shapes] == maps.feature_info.channels()
    if "swin" not in name:  # timm's gives NHWC
        assert shapes == expected


def trained(model: Any) -> set[str]:
    return {key for key, value in model.named_parameters() if value.requires_grad}


def paths(model: Any) -> set[str]:
    return {key for key, _ in model.named_parameters() if "conv_path" in key or "rate_" in key}


@pytest.mark.parametrize(
    ("name", "kwargs", "classifier"),
    [(*SWIN, ["head.fc"]), (*VIT, ["head"]), (*PVT, ["head"]), (*OTHERS[0], ["head", "head_dist"])],
    ids=lambda value: str(value)[:24],
)
def test_frozen_the_new_parameters_are_trained_and_what_the_weights_lack(tmp_path, name, kwargs, classifier):
    file = tmp_path / "weights.pth"
    torch.save(theirs(name, kwargs).state_dict(), file)
    build: Any = partial(acmix.add_conv_path, name, file, freeze=True, **kwargs)
    new = {f"{place}.{kind}" for place in classifier for kind in ("weight", "bias")}
    whole, other, grey, none = (
        build(num_classes=5),
        build(num_classes=3),
        build(num_classes=5, in_chans=1),
        build(num_classes=0),
    )
    assert trained(whole) == paths(whole)
    assert torch.equal(whole.get_parameter(f"{classifier[0]}.weight"), torch.load(file)[f"{classifier[0]}.weight"])
    assert trained(other) == paths(other) | new
    # the kernels that read the image are made of the weights' own
    assert trained(grey) == paths(grey)
    assert trained(none) == paths(none)
    assert whole.training


def test_frozen_a_random_body_is_said_and_its_classifier_is_trained():
    with pytest.warns(UserWarning, match="freeze a body drawn at random; load its weights before you train"):
        upgraded: Any = acmix.add_conv_path(VIT[0], pretrained=False, freeze=True, num_classes=5, **VIT[1])
    assert trained(upgraded) == paths(upgraded) | {"head.weight", "head.bias"}


@pytest.mark.parametrize(("name", "kwargs"), [SWIN, VIT, PVT], ids=lambda value: str(value)[:24])
def test_frozen_a_given_models_classifier_is_trained_where_nobody_has_trained_it(name, kwargs):
    plain = theirs(name, kwargs)
    upgraded: Any = acmix.add_conv_path(plain, freeze=True)
    assert {key.rpartition(".")[2] for key in trained(upgraded) - paths(upgraded)} == {"weight", "bias"}
    torch.nn.init.normal_(plain.get_classifier().bias)
    upgraded = acmix.add_conv_path(plain, freeze=True)
    assert trained(upgraded) == paths(upgraded)


def test_other_mixtures_can_be_asked_for():
    upgraded: Any = acmix.add_conv_path(theirs(*PVT), rates="softmax")
    assert any(key.endswith("attn.rate_logits") for key in upgraded.state_dict())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_a_file_and_a_classifier_of_another_size_is_drawn(tmp_path, suffix):
    kwargs: dict[str, Any]
    name, kwargs = VIT
    plain = theirs(name, kwargs)
    file = tmp_path / f"weights.{suffix}"
    state = plain.state_dict()
    safetensors.torch.save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    overlay: dict[str, Any] = dict(num_classes=5)
    upgraded: Any = acmix.add_conv_path(
        name, pretrained=file, num_classes=3, pretrained_cfg_overlay=overlay, **kwargs
    ).eval()
    assert upgraded(image(plain)).shape == (2, 3)
    with torch.no_grad():
        torch.testing.assert_close(upgraded.forward_features(image(plain)), plain.forward_features(image(plain)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: "convnext_atto", "ConvNeXt cannot be upgraded; expected one of timm's Swin"),
        (lambda: "swinv2_tiny_window8_256", "SwinTransformerV2 cannot be upgraded"),
        (lambda: "deit_smal_patch16_224", "did you mean 'deit_small_patch16_224'"),
        (lambda: "acmix_resnet26", "timm has no model 'acmix_resnet26'"),
        (lambda: 5, "expected a name or a model, not a int"),
        (lambda: acmix.add_conv_path(theirs(*VIT)), "has convolution paths already"),
        (lambda: torch.compile(theirs(*VIT)), "is compiled"),
        (lambda: theirs(*VIT, dynamic_img_size=True), "build it with img_size"),
        (lambda: theirs(*SWIN, norm_layer=partial(nn.LayerNorm, eps=1e-6)), "this Swin cannot be upgraded"),
        (lambda: nn.Linear(2, 2), "Linear cannot be upgraded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_upgraded_is_refused_in_one_line(wrong, said):
    with pytest.raises(UsageError) as caught:
        acmix.add_conv_path(wrong(), pretrained=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_and_arguments_for_a_model_are_refused():
    with pytest.raises(UsageError, match="is not a file"):
        acmix.add_conv_path("deit_small_patch16_224", pretrained="nowhere.pth")
    with pytest.raises(UsageError, match="img_size apply to a model's name"):
        acmix.add_conv_path(theirs(*VIT), img_size=32)


def test_a_configuration_builds_it_frozen_and_with_layer_wise_rates():
    name, kwargs = VIT
    args = {key: value for key, value in kwargs.items() if key != "img_size"} | dict(depth=3)
    tree = dict(
        model=dict(name=name, num_classes=5, add_conv_path=True, freeze=True, args=args),
        data=dict(img_size=64),
        optimizer=dict(layer_decay=0.5, lr=1e-3),
    )
    settings = config.validate(tree)
    model = build_model(settings)
    assert trained(model) == paths(model) | {"head.weight", "head.bias"}
    optimizer = create_optimizer(model, settings, 512)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(parameters) == sum(parameter.requires_grad for parameter in model.parameters())
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    # those of two blocks with paths, and of the classifier
    assert len(scales) == 3
    rates = {id(value) for key, value in model.named_parameters() if "rate_" in key}
    assert all(
        group["weight_decay"] == 0 for group in optimizer.param_groups if any(id(p) in rates for p in group["params"])
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (dict(name="acmix_resnet26", pretrained=True), "'acmix_resnet26' has no weights to download"),
        (dict(name="deit_small_patch16_224", freeze=True), "set both or neither"),
        (dict(name="resnet18", add_conv_path=True), "ResNet cannot be upgraded"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(model, said):
    with pytest.raises(UsageError) as caught:
        build_model(config.validate(dict(model=model)))
    assert said in str(caught.value)


@pytest.mark.parametrize(("name", "kwargs"), [(VIT[0], {**VIT[1], "depth": 5}), PVT], ids=["ViT", "PVT"])
def test_features_are_by_default_those_that_timm_gives(name, kwargs):
    ours: Any = acmix.add_conv_path(name, pretrained=False, features_only=True, **kwargs)
    plain: Any = timm.create_model(name, features_only=True, **kwargs)
    assert ours.feature_info.module_name() == plain.feature_info.module_name()


@pytest.mark.parametrize("kwargs", [dict(always_partition=True), dict(attn_drop_rate=0.2), dict(window_size=(2, 4))])
def test_what_timms_swin_was_built_with_is_taken_over(kwargs):
    model: Any = timm.create_model(SWIN[0], **{**SWIN[1], "window_size": 4, **kwargs}).eval()
    upgraded: Any = acmix.add_conv_path(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(upgraded(x), model(x))
    for one, other in zip(upgraded.layers, model.layers, strict=True):
        assert [block.window for block in one.blocks] == [block.window_size for block in other.blocks]
        assert {block.attn.attn_drop for block in one.blocks} == {kwargs.get("attn_drop_rate", 0.0)}


def test_an_upgraded_model_gives_all_maps_of_its_stages_by_the_getter_alone():
    maps: Any = acmix.add_conv_path(SWIN[0], pretrained=False, features_only=True, **SWIN[1])  # pyright: ignore[reportArgumentType]
    assert len(maps(torch.randn(1, 3, 64, 64))) == len(SWIN[1]["depths"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="feature_cls"):
        acmix.add_conv_path(SWIN[0], pretrained=False, features_only=True, feature_cls="fx", **SWIN[1])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("said", ["size mismatch for cls_token", "model.checkpoint=FILE starts from whatever fits"])
def test_a_file_of_another_models_weights_is_told_from_a_download(tmp_path: Path, said: str) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UsageError, match=said) as told:
        acmix.add_conv_path("deit_small_patch16_224", pretrained=str(tmp_path / "vit.pth"), depth=1)
    assert "download" not in str(told.value)
