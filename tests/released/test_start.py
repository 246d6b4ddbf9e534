"""A model starts from whatever fits it, with its outputs; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.models.upgrade import is_new
from acmix.released.safe_load import safe_load
from acmix.released.start import start_from
from acmix.released.weights import to_official
from tests.support.paths import DATA
from tests.support.starts import DEIT, PVT, RESNET, SIZES, SWIN, kept, logits, ours, printed, refused, theirs


@pytest.mark.parametrize("conv_path", [False, True])
@pytest.mark.parametrize("name", [SWIN, DEIT])
def test_timms_weights_give_timms_logits_with_and_without_paths(name: str, conv_path: bool, file: Path) -> None:
    model = theirs(name)
    mine = ours(name, conv_path=conv_path)
    started = start_from(mine, kept(model.state_dict(), file))
    assert started.taken == list(model.state_dict()) or conv_path
    assert not started.left_out
    assert not started.resized
    size = SIZES[name]["img_size"]
    assert (logits(mine, size) - logits(model, size)).abs().max() < 1e-6
    assert all(is_new(key) for key in started.drawn)
    assert bool(started.drawn) == conv_path
    rates = {key.rpartition(".")[2]: value.item() for key, value in mine.state_dict().items() if "rate_" in key}
    assert rates == ({"rate_attention": 1.0, "rate_conv": 0.0} if conv_path else {})


def test_timms_resnet_gives_its_logits_and_its_3x3_convolutions_have_no_place_among_acmix(file: Path) -> None:
    model = theirs(RESNET)
    kept(model.state_dict(), file)
    mine = ours(RESNET, layers=(1, 1, 1, 1), width=64)
    assert not start_from(mine, file).drawn
    assert (logits(mine) - logits(model)).abs().max() < 1e-6
    started = start_from(ours(RESNET, layers=(1, 1, 1, 1), width=64, conv_path=True), file)
    assert started.left_out == [f"layer{stage}.0.conv2.weight" for stage in (1, 2, 3, 4)]
    assert "outputs are not its model's at first" in printed(started)


@pytest.mark.parametrize("layout", ["first of timm", "original"])
def test_older_names_of_a_swin_are_known(layout: str, file: Path) -> None:
    # three stages: the second's merging is the third's there
    three: dict[str, Any] = dict(depths=(2, 2, 1), num_heads=(3, 6, 12))
    model = ours(SWIN, **three)
    # merging at the end of a stage, the classifier called head; the original also keeps index tables and masks
    weights: dict[str, Any] = to_official(model.state_dict(), SWIN, img_size=64)
    fixed = [key for key in weights if key.endswith(("attn_mask", "relative_position_index"))]
    assert len(fixed) == 7
    if layout == "first of timm":
        weights = {key: value for key, value in weights.items() if key not in fixed}
    mine = ours(SWIN, **three)
    nn.init.normal_(mine.norm.weight)  # type: ignore[union-attr,arg-type]
    started = start_from(mine, kept({"model": weights}, file))
    assert torch.equal(logits(mine), logits(model))
    assert len(started.taken) == len(model.state_dict())
    assert started.fixed == (fixed if layout == "original" else [])
    assert not started.left_out


def test_names_of_the_original_pvt_are_known(file: Path) -> None:
    model = ours(PVT)
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr,arg-type]
    names = {"stages.1.cls_token": "cls_token"}
    for i in (0, 1):
        names |= {f"stages.{i}.patch_embed.{end}": f"patch_embed{i + 1}.proj.{end}" for end in ("weight", "bias")}
        names |= {f"stages.{i}.patch_norm.{end}": f"patch_embed{i + 1}.norm.{end}" for end in ("weight", "bias")}
        names[f"stages.{i}.pos_embed"] = f"pos_embed{i + 1}"
    original = {
        names.get(key, key.replace("stages.0.blocks", "block1").replace("stages.1.blocks", "block2")): value
        for key, value in model.state_dict().items()
    }
    assert not any(key.startswith("stages") for key in original)
    mine = ours(PVT)
    started = start_from(mine, kept(original, file))
    assert not started.drawn
    assert torch.equal(logits(mine), logits(model))


def test_released_weights_start_with_the_released_logits() -> None:
    golden = DATA / "official_checkpoint_toy.pth"
    toy: dict[str, Any] = dict(mlp_ratio=2.0, num_classes=10, conv_path=True)
    mine, strict = ours(SWIN, **toy), ours(SWIN, **toy)
    strict.load_state_dict(acmix.from_official(safe_load(golden), SWIN))
    started = start_from(mine, golden)
    assert torch.equal(logits(mine), logits(strict))
    assert not started.drawn
    assert not started.left_out


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timms_own_and_upgraded_models_start_too(name: str, file: Path) -> None:
    sizes = SIZES[DEIT if name.startswith("deit") else SWIN]
    model = theirs(DEIT if name.startswith("deit") else SWIN)
    kept({f"module.{key}": value for key, value in model.state_dict().items()}, file)
    torch.manual_seed(7)
    plain = timm.create_model(name, **sizes).eval()
    assert not start_from(plain, file).drawn
    upgraded = acmix.add_conv_path(name, pretrained=False, **sizes).eval()
    started = start_from(upgraded, file)
    size = sizes["img_size"]
    for each in (plain, upgraded):
        assert (logits(each, size) - logits(model, size)).abs().max() < 1e-6
    assert all(is_new(key) for key in started.drawn)


def test_paths_in_some_blocks_are_taken_and_the_others_change_nothing(file: Path) -> None:
    model = ours(SWIN, conv_path=True, conv_stages=(1,))
    mine = ours(SWIN, conv_path=True)
    started = start_from(mine, kept(model.state_dict(), file))
    assert (logits(mine) - logits(model)).abs().max() < 1e-6
    assert {key[:9] for key in started.drawn} == {"layers.0."}
    assert "2 convolution paths are new, with α=1 and β=0" in printed(started)


def test_rates_that_cannot_start_at_1_and_0_are_told_of(file: Path) -> None:
    started = start_from(ours(SWIN, conv_path=True, rates="softmax"), kept(theirs(SWIN).state_dict(), file))
    assert "4 convolution paths are new and at once count" in printed(started)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_does_not_fit_is_refused_in_one_line_and_changes_nothing(file: Path) -> None:
    weights = theirs(SWIN).state_dict()
    paths = ours(SWIN, conv_path=True).state_dict()
    key = "layers.0.blocks.1.attn.conv_path.kernels"
    lacking = {name: value for name, value in paths.items() if name != key}
    half = {name: value for name, value in weights.items() if "layers.1" not in name}
    cases: list[tuple[nn.Module, Any, str]] = [
        (ours(SWIN), {}, "holds no weights"),
        (ours(SWIN), {"epoch": 3, "state_dict": {}}, "holds no weights"),
        (ours(SWIN), {"some.weight": torch.ones(2)}, "it has 0% of the numbers that the body of this"),
        (ours(SWIN), half, "at least 50% was expected; it lacks layers.1."),
        (ours(SWIN, depths=(2, 4)), weights, "it has 2 blocks in layers.1.blocks, here there are 4"),
        (ours(SWIN, depths=(1, 1)), weights, "it has 2 blocks in layers.0.blocks, here there are 1"),
        (ours(SWIN, embed_dim=48), weights, "does not fit in 58 tensors, first: patch_embed.proj.weight is 24×3×4×4"),
        (ours(SWIN, num_heads=(2, 6)), weights, "relative_position_bias_table is 49×3 there and 49×2 here"),
        (ours(SWIN, in_chans=5), ours(SWIN, in_chans=4).state_dict(), "is 24×4×4×4 there and 24×5×4×4 here"),
        (ours(SWIN), paths, "has convolution paths that the model lacks (20 tensors, layers.0."),
        (ours(SWIN, conv_path=True), lacking, f"path of layers.0.blocks.1.attn: it lacks {key}"),
        (ours(SWIN, conv_path=True, conv_kernels="channel"), paths, "conv_path.kernels is 24×9×3×3 there"),
        (ours(SWIN), {**weights, "norm.bias": weights["norm.bias"].int()}, "norm.bias is int32 there and"),
        (ours(SWIN), {**weights, "norm.bias": weights["norm.bias"] / 0}, "not finite; give a file of plain finite"),
        (ours(SWIN), {**weights, "norm.bias": weights["norm.bias"].to("meta")}, "norm.bias has a shape there, but no"),
        (ours(SWIN), theirs(SWIN, in_chans=4).state_dict(), "24×3×4×4 here; give weights that read images of 1 or 3"),
        (ours(SWIN), {**weights, "norm.bias": weights["norm.bias"].to_sparse()}, "norm.bias is not a plain tensor"),
    ]  # fmt: skip
    for model, given, said in cases:
        assert said in refused(model, given, file)


@pytest.mark.parametrize(
    ("name", "ours", "said"),
    [
        pytest.param(
            "vit_tiny_patch16_224",
            "acmix_swin_tiny_patch4_window7_224",
            "timm's ViT weights, set model.name to their",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "vit_tiny_patch16_224",
            "acmix_deit_small_patch16_224",
            "such as deit_small_patch16_224, and model.add_conv",
            marks=pytest.mark.slow,
        ),
        (
            "pvt_v2_b0",
            "acmix_pvt_tiny",
            "timm's PVT v2 weights, set model.name to their name in timm, such as pvt_v2_b1",
        ),
        ("resnet18", "acmix_resnet26", ""),
    ],
)
def test_weights_of_timm_that_do_not_fit_point_to_timm_s_model(tmp_path, name, ours, said):
    torch.save(timm.create_model(name).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError) as error:
        start_from(acmix.create_model(ours), tmp_path / "a.pth")
    assert said in str(error.value)
    assert ("model.add_conv_path=true" in str(error.value)) == bool(said)
