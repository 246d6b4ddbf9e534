"""Swin and its ACmix form: timm's network under timm's names, any size, and everything timm's tools ask for."""

import copy
import pickle
from typing import Any

import pytest
import timm
import timm.optim
import torch
from timm.data import resolve_data_config
from torch import nn

import acmix
from acmix.errors import UsageError

TINY = "acmix_swin_tiny_patch4_window7_224"
NAMES = [
    f"acmix_swin_{size}_patch4_{rest}" for size in ("base", "small", "tiny") for rest in ("window12_384", "window7_224")
]
TOY: dict[str, Any] = dict(
    img_size=64, embed_dim=12, depths=(2, 2), num_heads=(2, 3), window_size=4, mlp_ratio=2.0, num_classes=5
)
FOUR: dict[str, Any] = dict(
    img_size=64, embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), window_size=4, mlp_ratio=1.0
)


def toy(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return acmix.create_model(TINY, **{**TOY, **kwargs})


def meta(name, **kwargs):
    with torch.device("meta"):
        return acmix.create_model(name, **kwargs)


def test_the_models_are_listed_here_and_in_timm():
    assert sorted(acmix.list_models("acmix_swin*")) == NAMES
    assert set(NAMES) <= set(acmix.list_models())
    assert acmix.list_models("*tiny*window7*") == [TINY]
    assert acmix.list_models("resnet50") == []
    assert set(NAMES) <= set(timm.list_models())


def test_without_the_path_it_is_timms_swin_under_timms_names():
    torch.manual_seed(0)
    theirs: Any = timm.create_model("swin_tiny_patch4_window7_224").double().eval()
    with torch.device("meta"):
        ours: Any = acmix.create_model(TINY, conv_path=False).double().eval()
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        difference = (ours(x) - theirs(x)).abs().max().item()
    print(f"largest difference of logits: {difference:.1e}")
    assert difference < 1e-12


def test_gradients_without_the_path_are_timms():
    ours = toy(conv_path=False).double()
    theirs: Any = timm.create_model("swin_tiny_patch4_window7_224", drop_path_rate=0.0, **TOY).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=1e-12)


# timm has no tiny and small of this size; its base is built with their shape
@pytest.mark.parametrize(("size", "dim", "depth"), [("tiny", 96, 6), ("small", 96, 18), ("base", 128, 18)])
def test_names_and_shapes_of_a_window_of_12_are_timms(size, dim, depth):
    heads = tuple(dim // 32 * 2**i for i in range(4))
    shape: dict[str, Any] = dict(embed_dim=dim, depths=(2, 2, depth, 2), num_heads=heads)
    with torch.device("meta"):
        ours: Any = acmix.create_model(f"acmix_swin_{size}_patch4_window12_384", conv_path=False)
        theirs: Any = timm.create_model("swin_base_patch4_window12_384", strict_img_size=False, **shape)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert ours.layers[0].blocks[0].attn.relative_position_bias_table.shape == (23**2, heads[0])
    assert ours.default_cfg["input_size"] == (3, 384, 384)


@pytest.mark.parametrize("name", NAMES)
def test_the_path_adds_its_tensors_and_nothing_else(name):
    plain, mixed = meta(name, conv_path=False).state_dict(), meta(name).state_dict()
    added = [key for key in mixed if key not in plain]
    assert set(plain) <= set(mixed)
    ends = ("rate_attention", "rate_conv", "conv_path.fc_weight", "conv_path.fc_bias", "conv_path.kernels")
    blocks = sum(key.endswith("attn.qkv.weight") for key in plain)
    assert len(added) == len(ends) * blocks
    assert all(key.endswith(ends) for key in added)


def test_masks_and_index_tables_are_not_saved():
    model = toy()
    assert list(model.buffers()) == []
    assert not [key for key in model.state_dict() if "mask" in key or "index" in key]
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_kernels_start_as_shifts_and_rates_as_a_half_in_every_block():
    for block in (block for stage in toy().layers for block in stage.blocks):
        assert block.attn.rate_attention.item() == block.attn.rate_conv.item() == 0.5
        shifts = torch.eye(9).view(9, 3, 3).expand_as(block.attn.conv_path.kernels)
        assert torch.equal(block.attn.conv_path.kernels, shifts)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (33, 47), (96, 40), (37, 128), (4, 4), (1, 1), (65, 63)], ids=str)
def test_any_size_gives_finite_logits_and_gradients(size):
    model = toy()
    out = model(torch.randn(1, 3, *size))
    out.square().sum().backward()
    assert out.shape == (1, 5)
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("size", [(61, 64), (62, 57)], ids=str)
def test_an_image_filled_up_with_zeros_to_whole_patches_gives_the_same(size):
    model = toy().double().eval()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    filled = nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    with torch.no_grad():
        assert torch.equal(model(x), model(filled))


def test_an_image_alone_and_in_a_batch_gives_the_same():
    model = toy().double().eval()
    x = torch.randn(3, 3, 50, 70, dtype=torch.float64)
    with torch.no_grad():
        together = model(x)
        for i in range(3):
            torch.testing.assert_close(model(x[i : i + 1])[0], together[i], rtol=0, atol=1e-12)
        assert model(x[:0]).shape == (0, 5)


def test_windows_are_no_larger_than_the_map_they_are_built_for():
    model: Any = acmix.create_model(TINY, img_size=(32, 64), **{k: v for k, v in FOUR.items() if k != "img_size"})
    assert [stage.blocks[0].window for stage in model.layers] == [(4, 4), (4, 4), (2, 4), (1, 2)]


def test_timm_builds_it_with_its_usual_arguments():
    model: Any = timm.create_model(TINY, num_classes=7, drop_path_rate=0.3, in_chans=1, **{k: FOUR[k] for k in FOUR})
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates[0] == 0.0
    assert rates[-1] == pytest.approx(0.3)
    assert rates == sorted(rates)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert model.default_cfg["input_size"] == (3, 224, 224)
    assert resolve_data_config({}, model=model)["crop_pct"] == 0.875


@pytest.mark.parametrize("size", [(64, 64), (65, 63), (96, 34)], ids=str)
@pytest.mark.parametrize("indices", [None, (0, 2), (3,), (-1,)], ids=str)
def test_features_are_channels_first_with_the_strides_they_claim(size, indices):
    chosen = {} if indices is None else dict(out_indices=indices)
    model: Any = timm.create_model(TINY, features_only=True, **FOUR, **chosen).eval()
    wanted = [i % 4 for i in indices or range(4)]
    assert model.feature_info.channels() == [8 * 2**i for i in wanted]
    assert model.feature_info.reduction() == [4 * 2**i for i in wanted]
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))
    for each, i in zip(maps, wanted, strict=True):
        stride = 4 * 2**i
        # halves are rounded up at every merging, which is the same as once
        assert each.shape == (2, 8 * 2**i, -(-size[0] // stride), -(-size[1] // stride))
        assert each.is_contiguous()


def test_intermediates_are_those_of_the_forward_pass():
    model = toy().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x, norm=True)
        assert torch.equal(maps[-1], model.forward_features(x).permute(0, 3, 1, 2))
        assert torch.equal(final, model.forward_features(x))
        (last,) = model.forward_intermediates(
            x, indices=[0], stop_early=True, intermediates_only=True, output_fmt="NHWC"
        )
        assert torch.equal(last.permute(0, 3, 1, 2), maps[0])
    with pytest.raises(UsageError, match="output_fmt='NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_the_classifier_can_be_changed_and_left_out():
    model = toy()
    x = torch.randn(2, 3, 64, 64)
    assert model.get_classifier().weight.shape == (5, 24)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert pooled.shape == (2, 24) == (2, model.num_features)
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    assert toy(num_classes=0)(x).shape == (2, 24)


def test_rates_tables_and_every_vector_are_not_decayed():
    model = toy()
    free = model.no_weight_decay()
    ends = ("rate_attention", "rate_conv", "relative_position_bias_table")
    assert free == {name for name, _ in model.named_parameters() if name.endswith(ends)}
    assert len(free) == 3 * 4
    groups = timm.optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=free)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed
    assert all(name.endswith(("weight", "kernels")) and "norm" not in name for name in decayed)


def test_every_parameter_belongs_to_one_layer_of_timms_groups():
    model = toy()
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert sorted(name for names in groups.values() for name in names) == sorted(n for n, _ in model.named_parameters())
    assert timm.optim.param_groups_layer_decay(model, layer_decay=0.75)


def test_checkpointing_changes_no_gradient():
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for enable in (False, True):
        model = toy().double()
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_model_can_be_copied_and_pickled_after_its_backward_pass():
    model = toy().eval()
    x = torch.randn(1, 3, 64, 64)
    model(x).sum().backward()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_about_the_same(dtype):
    model, x = toy().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype):
            mixed = model(x)
        half = copy.deepcopy(model).to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    for found in (mixed, half):
        assert (found - expected).abs().max() < 20 * torch.finfo(dtype).eps * expected.abs().max()


def test_training_steps_lower_the_loss():
    model = toy()
    x, target = torch.randn(8, 3, 64, 64), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_heads=(2, 5)), "5 heads do not divide 24 channels"),
        (dict(depths=(2, 2, 2)), r"depths=\(2, 2, 2\) and num_heads=\(2, 3\)"),
        (dict(window_size=0), r"window=\(0, 0\)"),
    ],
)
def test_settings_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        toy(**arguments)
