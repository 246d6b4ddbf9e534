"""What every registered model does, whichever family it is of."""

import copy
import io
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import acmix
from acmix.layers import Mixed
from acmix.models.count import cost_of

NAMES = acmix.list_models()
# a small network of each family, and the smallest stride of its maps
TOYS = {
    "acmix_swin": dict(img_size=32, embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=4, mlp_ratio=1.0),
    "acmix_resnet": dict(layers=(1, 1), width=8, heads=2, attention_size=3),
    "acmix_san": dict(layers=(1, 1), width=32),
    "acmix_pvt": dict(
        img_size=32, embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1)
    ),
    "acmix_deit": dict(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=2),
}
# what the plain network has in the place of what the mixed one adds
REPLACED = {"acmix_resnet": "conv2."}


def family_of(name):
    """The family's entry in the table above; a new family has to be entered there."""
    found = [family for family in TOYS if name.startswith(family)]
    assert len(found) == 1, f"{name} is of no family in TOYS; add a small network of its family there"
    return found[0]


FAMILIES = sorted({family_of(name): name for name in NAMES}.values())
# every name, of which one a family is fast
EACH = [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def toy(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return acmix.create_model(name, **{**TOYS[family_of(name)], "num_classes": 5, **kwargs})


def images(count=2, height=32, width=32, dtype=torch.float32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3)).to(dtype)


def settled(model):
    """In evaluation mode, with the running statistics of one batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images(4))
    return model.eval()


# by the toy sizes above all names of a family are one network
@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_every_parameter_at_any_size(name):
    model = toy(name)
    for height, width in ((32, 32), (37, 50), (5, 3)):
        model.zero_grad()
        out = model(images(2, height, width))
        out.square().sum().backward()
        assert out.shape == (2, 5)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_at_full_size_it_has_its_classes_maps_and_the_plain_parameters(name):
    size = timm.get_pretrained_cfg(name).input_size[1]
    with torch.device("meta"):
        mixed, plain = acmix.create_model(name), acmix.create_model(name, conv_path=False)
        maps: Any = acmix.create_model(name, features_only=True)
        bare = acmix.create_model(name, num_classes=0)
        x = torch.empty(2, 3, size, size)
        assert mixed.eval()(x).shape == (2, 1000)
        assert bare.eval()(x).shape == (2, mixed.num_features)
        found = [(out.shape[1], size // out.shape[2]) for out in maps.eval()(x)]
    assert found == list(zip(maps.feature_info.channels(), maps.feature_info.reduction(), strict=True))
    assert not [module for module in plain.modules() if isinstance(module, Mixed) and module.conv_path is not None]
    mixed_keys, plain_keys = (set(model.state_dict()) for model in (mixed, plain))
    replaced = {key for key in plain_keys - mixed_keys if REPLACED.get(family_of(name), "\n") not in key}
    assert not replaced
    added = ("rate_attention", "rate_conv", "conv_path.fc_weight", "conv_path.fc_bias", "conv_path.kernels")
    of_attention = ("conv2.query", "conv2.key", "conv2.value", "conv2.position")
    assert all(key.endswith(added) or any(part in key for part in of_attention) for key in mixed_keys - plain_keys)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_maps_in_nchw_and_a_pruned_network_gives_the_same(name):
    maps = toy(name, features_only=True).eval()
    x = images(2, 40, 24)
    with torch.no_grad():
        out = maps(x)
        one = toy(name, features_only=True, out_indices=(0,)).eval()(x)
    assert [each.shape[1] for each in out] == maps.feature_info.channels()
    assert [(each.shape[2], each.shape[3]) for each in out] == [
        (-(-40 // r), -(-24 // r)) for r in maps.feature_info.reduction()
    ]
    torch.testing.assert_close(one[0], out[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_it_compiles_into_one_graph_with_its_gradients(name):
    torch._dynamo.reset()
    model = toy(name)
    compiled: Any = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for out in (expected := model(images()), found := compiled(images())):
        out.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    theirs = dict(compiled._orig_mod.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(theirs[key].grad, parameter.grad, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_exported_for_any_batch(name):
    model = settled(toy(name))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        for count in (1, 3):
            torch.testing.assert_close(program.module()(images(count)), model(images(count)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_gives_the_same(name, count):
    model = settled(toy(name))
    expected = model(images(count))
    model.to(memory_format=torch.channels_last)
    found = model(images(count).to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_comes_near(name):
    model = settled(toy(name))
    expected = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        automatic = model(images())
    automatic.float().sum().backward()
    cast = copy.deepcopy(model).bfloat16()(images(dtype=torch.bfloat16))
    scale = expected.abs().max()
    for found in (automatic, cast):
        assert found.dtype == torch.bfloat16
        assert (found - expected).abs().max() < 0.1 * scale


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_pickles_and_state_dicts_give_the_same_bits(name):
    model = settled(toy(name))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = toy(name, drop_path_rate=0.1)
    loaded.load_state_dict(torch.load(file))
    with torch.no_grad():
        expected = model(images())
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded.eval()):
            assert torch.equal(other(images()), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_no_gradient_and_counts_no_batch_twice(name):
    plain, lean = toy(name), toy(name)
    lean.set_grad_checkpointing()
    passes = []
    for model in (plain, lean):
        mixed = next(module for module in model.modules() if isinstance(module, Mixed))
        mixed.register_forward_pre_hook(lambda module, arguments: passes.append(module))
        model(images()).square().sum().backward()
    # with it, once more in the backward pass
    assert len(passes) == 1 + 2
    for (key, expected), found in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=key)
    for key, expected in plain.named_buffers():
        torch.testing.assert_close(lean.get_buffer(key), expected, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_is_replaced_and_left_out(name):
    model = toy(name)
    model.reset_classifier(7)
    assert model(images()).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(0)
    assert model(images()).shape == (2, model.num_features)


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_wise_rates_reach_every_parameter_and_no_rate_decays(name):
    model = toy(name)
    groups = param_groups_layer_decay(
        model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=tuple(model.no_weight_decay())
    )
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(set(scales.values())) >= 3
    parameters = dict(model.named_parameters())
    first = next(parameters[key] for key in parameters if key.startswith(model.default_cfg["first_conv"]))
    last = parameters[f"{model.default_cfg['classifier']}.weight"]
    assert scales[id(first)] < scales[id(last)]
    for key in parameters:
        if ".rate_" in key:
            assert decays[id(parameters[key])] == 0.0


# multiply-adds of one image by hand: 32² pixels, one block a stage
def test_multiply_adds_are_counted_to_the_last():
    deit = acmix.create_model(
        "acmix_deit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=12,
        depth=1,
        num_heads=2,
        num_classes=5,
        global_pool="avg",
    )
    tokens, patches, dim, head = 17, 16, 12, 6
    attention = tokens * dim * 3 * dim + 2 * tokens * tokens * dim + tokens * dim * dim
    path = patches * head * (9 * 6) + patches * dim * 81
    by_hand = patches * 8 * 8 * 3 * dim + attention + path + 2 * tokens * dim * 4 * dim + dim * 5
    assert round(cost_of(deit, 32).gmacs * 1e9) == by_hand

    san = acmix.create_model("acmix_san10", layers=(1,), width=32, num_classes=5)
    pixels, width, inner, groups = 256, 2, 8, 1
    weights = width * 10 * groups + groups * 9 * groups
    path = width * 9 * 6 + inner * 81
    block = 32 * 6 * width + weights + 9 * inner + path + inner * 32
    assert round(cost_of(san, 32).gmacs * 1e9) == 32 * 32 * 3 * 32 + pixels * (32 * 32 + block) + 32 * 5

    pvt = acmix.create_model("acmix_pvt_tiny", **TOYS["acmix_pvt"], num_classes=5)
    first, second = 64, 16
    one = first * 48 * 8 + first * 64 + 16 * 4 * 64 + 16 * 8 * 16 + 2 * first * 16 * 8 + first * 64 + 2 * first * 8 * 16
    one += first * 8 * 9 * 3 + first * 8 * 81
    # no path in the last block, of which only the class token is read
    two = second * 32 * 16 + 17 * 16 * 16 * 4 + 2 * 17 * 17 * 16 + 2 * 17 * 16 * 32
    assert round(cost_of(pvt, 32).gmacs * 1e9) == one + two + 16 * 5
