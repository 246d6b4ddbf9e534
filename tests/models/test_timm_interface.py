"""What timm's tools, torch.fx and detection or segmentation heads ask of a network; scripts/timm_tests.py asks more."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models import create_feature_extractor
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.models.blocks import TransformerBlock
from tests.models.test_models import FAMILIES, images, settled, toy

families = pytest.mark.parametrize("name", FAMILIES)
SWIN, RESNET, DEIT = (next(name for name in FAMILIES if part in name) for part in ("swin", "resnet", "deit"))
# sizes in which timm's Swin does not pad its windows
SWIN_TOY: dict[str, Any] = dict(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5)


@families
@pytest.mark.parametrize("conv_path", [True, False])
def test_a_symbolic_trace_gives_the_same_at_any_size_and_every_gradient(name, conv_path, monkeypatch):
    model = settled(toy(name, conv_path=conv_path))
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    for size in ((32, 32), (37, 50)):
        torch.testing.assert_close(traced(images(2, *size)), model(images(2, *size)))
    # a trace shows residuals outside the layers that add them where they run; there it is the same to the bit
    monkeypatch.setattr(TransformerBlock, "attention_adds", lambda self, x: False)
    for size in ((32, 32), (37, 50)):
        assert torch.equal(traced(images(2, *size)), model(images(2, *size)))
    for each in (model, traced):
        each(images()).square().sum().backward()
    found = dict(traced.named_parameters())
    for key, parameter in model.named_parameters():
        assert torch.equal(found[key].grad, parameter.grad), key  # pyright: ignore[reportArgumentType]


@families
def test_a_layer_alone_within_another_network_is_one_node(name):
    model = settled(toy(name))
    kinds = ("WindowAttention", "ACmix2d", "PatchwiseAttention", "ReductionAttention", "GlobalAttention")
    wanted = [key for key, module in model.named_modules() if type(module).__name__ in kinds]
    nodes = torch.fx.symbolic_trace(model).graph.nodes
    assert wanted
    assert [node.target for node in nodes if node.op == "call_module" and node.target in wanted] == wanted


@families
def test_inner_maps_are_taken_out_by_name(name, monkeypatch):
    # as a trace shows it
    monkeypatch.setattr(TransformerBlock, "attention_adds", lambda self, x: False)
    model = settled(toy(name))
    at = model.feature_info[0]["module"]
    kept = []
    model.get_submodule(at).register_forward_hook(lambda *arguments: kept.append(arguments[-1]))
    with torch.no_grad():
        found = create_feature_extractor(copy.deepcopy(model), {at: "map"})(images())["map"]
        kept.clear()
        model(images())
    expected = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    # a ReLU in place behind the first map changes nothing that is not negative
    assert torch.equal(found, expected)


@families
@pytest.mark.parametrize("feature_cls", ["hook", "dict", "fx", "list"])
@pytest.mark.parametrize("indices", [None, (0,), (-1,)], ids=str)
def test_every_extractor_of_timm_gives_the_maps(name, feature_cls, indices):
    chosen = {} if indices is None else dict(out_indices=indices)
    if name == DEIT and feature_cls in ("list", "dict"):
        with pytest.raises(UsageError, match="use 'getter', 'hook' or 'fx'"):
            toy(name, features_only=True, feature_cls=feature_cls)
        return
    model = settled(toy(name, features_only=True, feature_cls=feature_cls, **chosen))
    usual = settled(toy(name, features_only=True, **chosen))
    with torch.no_grad():
        found, expected = model(images()), usual(images())
    found = list(found.values()) if isinstance(found, dict) else found
    assert model.feature_info.channels() == usual.feature_info.channels()
    for one, other in zip(found, expected, strict=True):
        if one.dim() == 3:  # tokens, a class token perhaps before them
            one = one[:, one.shape[1] - other[0, 0].numel() :].unflatten(1, other.shape[2:])
        one = one if model.output_fmt == "NCHW" else one.permute(0, 3, 1, 2)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@families
# PyTorch says itself that it is deprecated, from 2.10 on
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_script_is_refused_in_one_line_and_a_part_of_one_too(name):
    model = toy(name)
    for module in (model, nn.Sequential(nn.Identity(), model), model.get_submodule(model.feature_info[-1]["module"])):
        with pytest.raises(UsageError, match=r"use torch\.jit\.trace") as caught:
            torch.jit.script(module)
        assert "\n" not in str(caught.value)


@families
def test_it_is_built_on_a_device_and_in_a_dtype(name):
    model = toy(name, device="meta", dtype=torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert {each.device.type for each in tensors} == {"meta"}
    assert {each.dtype for each in tensors if each.is_floating_point()} == {torch.bfloat16}
    maps: Any = toy(name, features_only=True, device="meta")
    assert all(each.device.type == "meta" for each in maps.parameters())
    with pytest.raises(TypeError, match="not_an_argument"):
        toy(name, not_an_argument=1)


@families
def test_a_new_classifier_takes_over_pooling_device_dtype_and_mode(name):
    pools = ("avg", "") if name in (DEIT, "acmix_pvt_tiny") else ("max", "avg", "catavgmax", "")
    for pool in pools:
        model = toy(name, global_pool=pool).double().eval()
        model.reset_classifier(0)
        before = model(images(dtype=torch.float64))
        model.reset_classifier(0)
        assert torch.equal(model(images(dtype=torch.float64)), before)
        if pool:
            assert before.shape == (2, model.head_hidden_size)
            model.reset_classifier(3)
            assert model(images(dtype=torch.float64)).shape == (2, 3)
            assert model.get_classifier().weight.dtype == torch.float64
            assert not any(module.training for module in model.modules())
        model.to("meta").reset_classifier(4)
        assert all(each.device.type == "meta" for each in model.parameters())


@families
def test_what_stops_early_or_is_cut_off_ends_at_its_map_and_trains_whole(name):
    model = settled(toy(name, drop_rate=0.5))
    count = len(model.feature_info)
    x = images()
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
    for i in range(count):
        with torch.no_grad():
            _, found = model.forward_intermediates(x, indices=[i], stop_early=True)
        assert torch.equal(found[0], maps[i])
        cut = copy.deepcopy(model)
        assert cut.prune_intermediate_layers([i], prune_norm=True) == [i]
        assert cut.num_features == cut.head_hidden_size == model.feature_info[i]["num_chs"]
        last, found = cut.forward_intermediates(x, norm=True)
        assert torch.equal(found[-1], maps[i])
        assert torch.equal(last, cut.forward_features(x))
        if last.dim() == 4:
            assert torch.equal(last if cut.output_fmt == "NCHW" else last.permute(0, 3, 1, 2), maps[i])
        last.sum().backward()
        assert all(parameter.grad is not None for parameter in cut.parameters())
        cut.reset_classifier(3, "avg")
        assert cut(x).shape == (2, 3)


def test_stopping_at_the_stem_gives_what_timms_resnet_gives():
    ours = settled(acmix.create_model("acmix_resnet50", conv_path=False, layers=(1, 1, 1, 1)))
    theirs: Any = timm.create_model("resnet50", layers=(1, 1, 1, 1)).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        for indices in ([0], [1]):
            expected, _ = theirs.forward_intermediates(images(1), indices=indices, stop_early=True)
            found, _ = ours.forward_intermediates(images(1), indices=indices, stop_early=True)  # pyright: ignore[reportCallIssue]
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "stride", [8, pytest.param(16, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow)]
)
def test_a_plain_resnet_keeps_its_stride_by_dilation_as_timms_does(stride):
    kwargs: dict[str, Any] = dict(layers=(1, 1, 2, 2), output_stride=stride, features_only=True)
    ours: Any = acmix.create_model("acmix_resnet50", conv_path=False, **kwargs).double()
    theirs: Any = timm.create_model("resnet50", **kwargs).double()
    theirs.load_state_dict({key.removeprefix("model."): value for key, value in ours.state_dict().items()})
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    x = images(1, 70, 64, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(ours.eval()(x), theirs.eval()(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_an_acmix_resnet_keeps_its_stride_and_its_layers_reach_as_far():
    model = toy(RESNET, layers=(1, 1, 2, 2), output_stride=8, num_classes=0, global_pool="")
    assert model(images(1, 37, 50)).shape[2:] == (5, 7)
    layers = [module for module in model.modules() if isinstance(module, acmix.ACmix2d)]
    assert [(each.stride, each.dilation) for each in layers] == [(1, 1), (2, 1), (1, 1), (1, 2), (1, 2), (1, 4)]
    with pytest.raises(UsageError, match="output_stride=7; expected one of 8, 16, 32"):
        toy(RESNET, output_stride=7)


@families
def test_a_family_without_dilation_refuses_another_stride(name):
    if name == RESNET:
        return
    with pytest.raises(UsageError, match=r"output_stride=16.*acmix_resnet26"):
        toy(name, output_stride=16)
    # timm's default asks for nothing
    toy(name, output_stride=32)


def swins(size, **kwargs):
    """Plain Swin, ours and timm's, with the same weights."""
    ours: Any = acmix.create_model(SWIN, conv_path=False, img_size=size, **{**SWIN_TOY, **kwargs})
    theirs: Any = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=size, drop_path_rate=0.0, **{**SWIN_TOY, **kwargs}
    )
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def assert_same_swins(ours, theirs, size):
    expected = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], msg=key)
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert [block.window for block in one.blocks] == [block.window_size for block in other.blocks]
    x = images(2, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    "change",
    [
        dict(img_size=(64, 64)),
        dict(img_size=(64, 128)),
        dict(img_size=(64, 64), window_size=4),
        dict(img_size=(32, 64), window_size=((2, 4), (4, 4))),
        dict(window_ratio=4),
        dict(img_size=(64, 64), window_ratio=(4, 8)),
        dict(img_size=(32, 32), patch_size=2),
        {},
    ],
    ids=str,
)
def test_swin_is_resized_as_timms_is(change):
    ours, theirs = swins((32, 32))
    for model in (ours, theirs):
        model.set_input_size(**change)
    assert_same_swins(ours, theirs, change.get("img_size", (32, 32)))
    assert [info["reduction"] for info in ours.feature_info] == [info["reduction"] for info in theirs.feature_info]
    for model in (ours, theirs):
        model.set_input_size(img_size=(32, 32))
    assert_same_swins(ours, theirs, (32, 32))


@pytest.mark.parametrize("windows", [2, (4, 2), ((2, 2), (4, 4), (1, 1))], ids=str)
def test_swin_takes_windows_for_each_stage(windows):
    kwargs = dict(depths=(1, 2, 1), num_heads=(1, 2, 2), window_size=windows)
    assert_same_swins(*swins((32, 32), **kwargs), (32, 32))
    with pytest.raises(UsageError, match="has 4 entries; expected one for each of 2 stages"):
        toy(SWIN, window_size=(2, 2, 2, 2))


def test_swin_refuses_windows_before_anything_changes():
    model = toy(SWIN)
    before = copy.deepcopy(model.state_dict())
    for wrong in (dict(window_ratio=(8, 4, 2)), dict(window_ratio=0), dict(window_size=(7, 7, 7)), dict(window_size=0)):
        with pytest.raises(UsageError, match="window"):
            model.set_input_size(img_size=(64, 64), **wrong)
        assert model.patch_embed.img_size == (32, 32)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_swin_partitions_a_map_that_one_window_covers_where_it_is_told_to():
    # the second stage has 4 × 4 pixels
    ours, theirs = swins((32, 32), always_partition=True)
    assert ours.layers[1].blocks[1].shift == (2, 2)
    assert_same_swins(ours, theirs, (32, 32))
    usual, _ = swins((32, 32))
    with torch.no_grad():
        assert not torch.allclose(usual(images()), ours(images()))
        usual.set_input_size(always_partition=True)
        assert torch.equal(usual(images()), ours(images()))


def test_swin_takes_its_own_size_alone_where_it_is_strict():
    model = toy(SWIN, strict_img_size=True)
    assert model(images()).shape == (2, 5)
    with pytest.raises(UsageError, match=r"images of \(40, 32\).*strict_img_size"):
        model(images(2, 40, 32))
    model.set_input_size(img_size=(40, 32))
    assert model(images(2, 40, 32)).shape == (2, 5)
    assert toy(SWIN, strict_img_size=True, dynamic_img_size=True)(images(2, 40, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", [each for each in FAMILIES if "resnet" not in each and "san" not in each])
def test_weights_of_the_attention_are_dropped_in_training_alone(name):
    dropped, usual = toy(name, attn_drop_rate=0.5), toy(name)
    with torch.no_grad():
        assert torch.equal(dropped.eval()(images()), usual.eval()(images()))
        torch.manual_seed(1)
        draws = torch.stack([dropped.train()(images()) for _ in range(2)])
    assert not torch.equal(draws[0], draws[1])
    dropped(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in dropped.parameters())


def test_dropped_weights_of_windows_keep_their_mean():
    from acmix.layers import WindowAttention

    torch.manual_seed(0)
    layer = WindowAttention(8, 2, (3, 3), attn_drop=0.3).double()
    x = torch.randn(1, 7, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = layer.eval()(x, (1, 1))
        found = torch.stack([layer.train()(x, (1, 1)) for _ in range(400)])
        layer.attn_drop = 1e-12
        torch.testing.assert_close(layer(x, (1, 1)), expected)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() < 5 * error + 1e-9).all()


def test_deit_gives_its_class_token_beside_its_maps_as_timms_does():
    sizes: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=12, depth=3, num_heads=2, num_classes=5)
    ours: Any = acmix.create_model(DEIT, conv_path=False, **sizes).eval()
    theirs: Any = timm.create_model("deit_tiny_patch16_224", **sizes).eval()
    theirs.load_state_dict(ours.state_dict())
    x = images()
    with torch.no_grad():
        for given in (dict(), dict(n=[0, 2]), dict(n=2, reshape=True, norm=True, return_prefix_tokens=True)):
            found, expected = (each.get_intermediate_layers(x, **given) for each in (ours, theirs))
            torch.testing.assert_close(found, expected)
        last, pairs = ours.forward_intermediates(x, return_prefix_tokens=True)
    assert torch.equal(last, ours.forward_features(x))
    assert [tuple(each.shape) for each in pairs[0]] == [(2, 12, 4, 4), (2, 1, 12)]
    assert ours.num_prefix_tokens == theirs.num_prefix_tokens == 1
    assert ours.patch_embed.grid_size == (4, 4)


def test_a_table_of_positions_is_resized_by_timm():
    model = toy(SWIN)
    attention: Any = model.layers[0].blocks[0].attn
    table = attention.relative_position_bias_table.detach().clone()
    model.requires_grad_(False).bfloat16().set_input_size(img_size=64)
    assert attention.window == (8, 8)
    found = attention.relative_position_bias_table
    assert (found.dtype, found.requires_grad) == (torch.bfloat16, False)
    expected = resize_rel_pos_bias_table(table.bfloat16(), (8, 8), (15 * 15, 1))
    torch.testing.assert_close(found, expected.bfloat16())
