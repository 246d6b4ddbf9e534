"""Released weights become ours and ours become released ones, to the bit; whatever does not fit is refused by name."""

import json
import math
from collections import OrderedDict
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import acmix
from acmix.errors import UsageError
from acmix.released.safe_load import safe_load
from acmix.released.weight_keys_swin import SWIN_BLOCK, SWIN_END, SWIN_MERGE, SWIN_START
from acmix.released.weights import FAMILIES, architecture, from_official, to_official
from tests.support.paths import DATA

TINY = "acmix_swin_tiny_patch4_window7_224"
SMALL = "acmix_swin_small_patch4_window7_224"
TOY: dict[str, Any] = dict(
    img_size=64, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=4, mlp_ratio=2.0, num_classes=10
)


@pytest.fixture(scope="module")
def toy():
    return safe_load(DATA / "official_checkpoint_toy.pth")


def released_keys(size):
    """Names and shapes that the released code saves."""
    content = json.loads((DATA / f"official_keys_swin_{size}.json").read_text())
    return content.get("keys", content)


def released_weights(size):
    """A state dict of the released layout with a number of its own in every entry."""
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in released_keys(size).items()}


def test_toy_checkpoint_gives_the_released_logits(toy):
    golden = load_file(DATA / "swin_tiny_toy.safetensors")
    model = acmix.create_model(TINY, **TOY)
    model.load_state_dict(from_official(toy, TINY))
    model = model.double().eval()
    with torch.no_grad():
        logits = model(golden["input"].double())
    assert (logits - golden["output"]).abs().max() <= 1e-9 * golden["output"].abs().max()


def test_toy_returns_from_a_round_trip_to_the_bit_with_tables_and_masks(toy):
    back = to_official(from_official(toy, TINY), TINY, img_size=64)
    assert list(back) == list(toy["model"])
    for key, tensor in toy["model"].items():
        assert back[key].dtype == tensor.dtype, key
        assert torch.equal(back[key], tensor), key


def test_toy_tables_equal_the_golden_ones(toy):
    golden = load_file(DATA / "swin_tiny_toy.safetensors")
    back = to_official(from_official(toy, TINY), TINY, img_size=64)
    buffers = {key.removeprefix("buffer/"): tensor for key, tensor in golden.items() if key.startswith("buffer/")}
    assert len(buffers) == 6
    for key, tensor in buffers.items():
        assert torch.equal(back[key].to(tensor.dtype), tensor), key


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_keys_and_shapes_are_those_of_the_released_models(size):
    name = f"acmix_swin_{size}_patch4_window7_224"
    with torch.device("meta"):
        model = acmix.create_model(name)
    theirs = to_official({key: torch.empty(value.shape) for key, value in model.state_dict().items()}, name)
    assert [(key, list(value.shape)) for key, value in theirs.items()] == list(released_keys(size).items())
    ours = from_official(theirs, name)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(("window", "img_size"), [(7, 224), (12, 384), (4, 64)])
def test_every_window_gets_the_mask_of_its_own_size(window, img_size):
    name = TINY if window != 12 else "acmix_swin_tiny_patch4_window12_384"
    kwargs: dict[str, Any] = dict(
        embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=window, mlp_ratio=1.0, num_classes=2
    )
    model = acmix.create_model(name, img_size=img_size, **kwargs)
    mask = to_official(model.state_dict(), name, img_size=img_size)["layers.0.blocks.1.attn_mask"]
    assert mask.shape == ((img_size // 4 // window) ** 2, window**2, window**2)
    assert set(mask.unique().tolist()) == {0.0, -100.0}
    assert torch.equal(mask, mask.transpose(1, 2))
    # only the windows of the last row and the last column hold pixels that were no neighbours
    side = img_size // 4 // window
    edge = torch.zeros(side, side, dtype=torch.bool)
    edge[-1], edge[:, -1] = True, True
    assert torch.equal((mask != 0).flatten(1).any(1), edge.flatten())


def test_a_map_no_larger_than_the_window_has_no_mask():
    model = acmix.create_model(TINY, **{**TOY, "img_size": 32})
    theirs = to_official(model.state_dict(), TINY, img_size=32)
    assert [key for key in theirs if key.endswith("attn_mask")] == ["layers.0.blocks.1.attn_mask"]


def test_merging_moves_to_the_next_stage_and_head_is_renamed():
    theirs = released_weights("toy")
    ours = from_official(theirs, TINY)
    assert torch.equal(ours["layers.1.downsample.reduction.weight"], theirs["layers.0.downsample.reduction.weight"])
    assert torch.equal(ours["head.fc.bias"], theirs["head.bias"])
    fc = ours["layers.0.blocks.0.attn.conv_path.fc_weight"]
    assert torch.equal(fc, theirs["layers.0.blocks.0.attn.fc.weight"].squeeze())
    assert torch.equal(ours["layers.0.blocks.0.attn.rate_attention"], theirs["layers.0.blocks.0.attn.rate1"])
    assert torch.equal(ours["layers.0.blocks.0.attn.rate_conv"], theirs["layers.0.blocks.0.attn.rate2"])


def test_a_rate_without_dimensions_is_taken(toy):
    weights = {k: v.reshape(()) if k.endswith(("rate1", "rate2")) else v for k, v in toy["model"].items()}
    ours, expected = from_official(weights, TINY), from_official(toy, TINY)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_wrappings_are_taken_off(toy):
    expected = from_official(toy["model"], TINY)
    distributed = OrderedDict((f"module.{key}", value) for key, value in toy["model"].items())
    for wrapped in (toy, {"model": toy["model"]}, distributed, {"model": distributed}):
        ours = from_official(wrapped, TINY)
        assert list(ours) == list(expected)


def test_plain_swin_of_the_released_layout_loads_without_a_convolution_path():
    path = ("rate1", "rate2", "fc.weight", "fc.bias", "dep_conv.weight")
    weights = {k: v for k, v in released_weights("toy").items() if not k.endswith(tuple(f"attn.{p}" for p in path))}
    model = acmix.create_model(TINY, conv_path=False, **TOY)
    model.load_state_dict(from_official(weights, TINY))
    back = to_official(model.state_dict(), TINY, img_size=64)
    assert list(back) == list(weights)


def test_plain_weights_compute_what_timm_computes_from_them():
    ours = acmix.create_model(TINY, conv_path=False, **TOY).double().eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **TOY).double().eval()
    theirs.load_state_dict(ours.state_dict())
    released = to_official(ours.state_dict(), TINY, img_size=64)
    reread = timm.models.swin_transformer.checkpoint_filter_fn(dict(released), theirs)
    theirs.load_state_dict(reread)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert (ours(x) - theirs(x)).abs().max() < 1e-12


@pytest.mark.parametrize(
    "key",
    [
        "norm.bias",
        "head.weight",
        "patch_embed.proj.weight",
        "layers.1.blocks.0.attn.rate1",
        "layers.0.blocks.1.attn.fc.bias",
    ],
)
def test_a_missing_key_is_named(toy, key):
    weights = {k: v for k, v in toy["model"].items() if k != key}
    with pytest.raises(UsageError, match=f"the file lacks: {key}") as caught:
        from_official(weights, TINY)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_and_a_missing_one_are_named_together(toy):
    weights = {k if k != "norm.bias" else "norm.offset": v for k, v in toy["model"].items()}
    with pytest.raises(UsageError, match=r"do not know: norm\.offset; .*the file lacks: norm\.bias"):
        from_official(weights, TINY)


def test_an_unknown_key_of_ours_is_named(toy):
    with pytest.raises(UsageError, match=r"do not know: extra; "):
        to_official({**from_official(toy, TINY), "extra": torch.ones(1)}, TINY)


def test_a_missing_key_of_ours_is_named(toy):
    ours = from_official(toy, TINY)
    del ours["layers.0.blocks.1.attn.conv_path.kernels"]
    with pytest.raises(UsageError, match=r"the file lacks: layers\.0\.blocks\.1\.attn\.conv_path\.kernels"):
        to_official(ours, TINY)


def test_a_wrong_shape_is_named_with_both_shapes(toy):
    weights = {**toy["model"], "norm.bias": torch.ones(3)}
    with pytest.raises(UsageError, match=r"norm\.bias \(3,\), expected \(48,\)"):
        from_official(weights, TINY)


def test_tiny_weights_under_the_name_of_small_are_refused_with_both_depths():
    weights = {key: torch.empty(shape) for key, shape in released_keys("tiny").items()}
    with pytest.raises(UsageError, match=r"\(2, 2, 6, 2\).*\(2, 2, 18, 2\).*acmix_swin_tiny"):
        from_official(weights, SMALL)
    with pytest.raises(UsageError, match="acmix_swin_tiny_patch4_window7_224"):
        from_official(weights, "acmix_swin_base_patch4_window7_224")


def test_another_network_is_refused_with_both_sides():
    weights = timm.create_model("resnet18").state_dict()
    with pytest.raises(UsageError, match=r"do not know: conv1\.weight.*lacks: patch_embed\.proj\.weight"):
        from_official(weights, TINY)


def test_weights_that_are_ours_already_are_told_so(toy):
    with pytest.raises(UsageError, match="already have acmix names"):
        from_official(from_official(toy, TINY), TINY)


@pytest.mark.parametrize("name", ["acmix_swin_tiny_patch4_window7", "acmix_pvt_tiny", "resnet50", ""])
def test_a_name_without_a_table_is_refused(toy, name):
    with pytest.raises(UsageError, match="acmix_swin_"):
        from_official(toy, name)


@pytest.mark.parametrize("value", [{}, [], None, {"model": 3}, {"model": {}}, {"norm.bias": [1.0]}])
def test_what_is_no_state_dict_is_refused(value):
    with pytest.raises(UsageError, match="expected"):
        from_official(value, TINY)


@pytest.mark.parametrize("img_size", [60, 63, 4, (64, 72)])
def test_an_image_size_the_released_code_cannot_cut_is_refused(toy, img_size):
    with pytest.raises(UsageError, match="img_size"):
        to_official(from_official(toy, TINY), TINY, img_size=img_size)


def test_sizes_are_read_off_the_weights(toy):
    expected = TOY | dict(patch_size=4, qkv_bias=True, in_chans=3, conv_path=True)
    assert architecture(toy) == expected
    assert architecture(from_official(toy, TINY)) == expected | dict(img_size=None)


def test_every_row_that_renames_or_drops_has_a_reason():
    rows = [*SWIN_START, *SWIN_BLOCK, *SWIN_MERGE, *SWIN_END]
    changed = [row for row in rows if row.ours != row.official or row.shape not in ("", row.official_shape)]
    assert len(changed) == 12
    assert all(row.reason != "the same tensor" for row in changed)
    assert [family.names for family in FAMILIES] == ["acmix_swin_*", "acmix_resnet*", "acmix2d"]


def test_parameters_counted_in_the_released_layout_are_the_published_number():
    for size, parameters in (("tiny", 28_649_908), ("small", 50_345_080)):
        shapes = released_keys(size)
        tables = ("attn_mask", "relative_position_index")
        assert sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(tables)) == parameters
