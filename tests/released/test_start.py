"""A model starts from whatever fits it: what is taken, resized, drawn new and left out is told; the rest is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

import acmix
from acmix.errors import UsageError
from acmix.models.upgrade import is_new
from acmix.released.safe_load import safe_load
from acmix.released.start import Started, start_from
from acmix.released.weights import to_official
from tests.support.paths import DATA

SWIN, DEIT, PVT, RESNET = (
    "acmix_swin_tiny_patch4_window7_224",
    "acmix_deit_tiny_patch16_224",
    "acmix_pvt_tiny",
    "acmix_resnet26",
)
SIZES: dict[str, dict[str, Any]] = {
    SWIN: dict(img_size=64, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=5),
    DEIT: dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5),
    PVT: dict(
        img_size=64, embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1),
        num_classes=5,
    ),
    RESNET: dict(layers=(1, 1), width=16, num_classes=5),
}  # fmt: skip


def ours(name: str, **changes: Any) -> nn.Module:
    """A small model, without a convolution path unless asked for."""
    torch.manual_seed(1)
    return acmix.create_model(name, **{"conv_path": False, **SIZES[name], **changes}).eval()


def theirs(name: str, **changes: Any) -> nn.Module:
    """timm's model of the same sizes, with weights that are none of ours."""
    torch.manual_seed(2)
    sizes = {**SIZES[name], **changes}
    if name == RESNET:
        kind: Any = Bottleneck
        return TimmResNet(kind, (1, 1, 1, 1), num_classes=5, **changes).eval()
    model = timm.create_model({SWIN: "swin_tiny_patch4_window7_224", DEIT: "deit_tiny_patch16_224"}[name], **sizes)
    return model.eval()


def logits(model: nn.Module, size: int = 64, in_chans: int = 3) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return model(torch.randn(2, in_chans, size, size))


def kept(weights: Any, path: Path) -> Path:
    """The weights in a file."""
    torch.save(weights, path)
    return path


def printed(started: Started) -> str:
    """The table as text."""
    console = Console(width=400)
    with console.capture() as capture:
        console.print(started.table())
    return capture.get()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


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


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "student.backbone."]
)
@pytest.mark.parametrize("entry", ["", "state_dict", "model"])
def test_prefixes_and_entries_are_taken_off(prefix: str, entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights: Any = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if entry:
        weights = {entry: weights, "epoch": 3, "optimizer": {"state": {0: torch.ones(3)}}}
    started = start_from(mine, kept(weights, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert not started.drawn
    assert entry in started.source


def test_a_compiled_part_and_what_lies_beside_the_model_are_seen_through(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights = {
        f"model.backbone.{key}".replace("blocks.1.", "blocks.1._orig_mod."): value
        for key, value in model.state_dict().items()
    }
    extra = {"model.neck.weight": torch.ones(2), "hyper": 3}
    started = start_from(mine, kept({"state_dict": {**weights, **extra}}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert started.left_out == ["model.neck.weight", "hyper"]
    assert "names behind 'model.backbone.'" in printed(started)


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema", "ema"])
def test_an_average_goes_before_the_weights_it_is_of(entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    other = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    average = {f"module.{key}": value for key, value in model.state_dict().items()}
    started = start_from(mine, kept({"state_dict": other, "model": other, entry: average}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert f"entry '{entry}', an average of weights, names behind 'module.'" in printed(started)
    started = start_from(mine, kept({"state_dict": other, entry: None}, file))
    assert not logits(mine, 32).any()
    assert started.source.endswith("(entry 'state_dict')")


@pytest.mark.parametrize("entry", ["params", "encoder", "model_state", "checkpoint.model.weights"])
def test_an_entry_of_any_name_is_found_where_no_usual_one_fits(entry: str, file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    weights: Any = model.state_dict()
    for name in reversed(entry.split(".")):
        weights = {name: weights}
    moments = {"state": {"first": model.state_dict()}}
    started = start_from(mine, kept({**weights, "optimizer": moments, "ema": {"decay": torch.ones(1)}}, file))
    assert torch.equal(logits(mine, 32), logits(model, 32))
    assert started.source.endswith(f"(entry '{entry}')")


def test_of_several_entries_the_one_that_fits_is_taken(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    own, other = model.state_dict(), theirs(RESNET).state_dict()
    zero = {key: torch.zeros_like(value) for key, value in own.items()}
    for content, entry in (
        ({"teacher": other, "student": own}, "student"),
        ({"params": zero, "params_ema": own}, "params_ema"),
        ({"generator": own, "critic": other}, "generator"),
    ):
        assert f"entry '{entry}'" in start_from(mine, kept(content, file)).source
        assert torch.equal(logits(mine, 32), logits(model, 32))
    assert "fit in the entries 'first' and 'second'" in refused(mine, {"first": own, "second": zero}, file)


def test_weights_of_8_bits_are_read(file: Path) -> None:
    model, mine = theirs(DEIT), ours(DEIT)
    small = {key: value.to(torch.float8_e4m3fn) for key, value in model.state_dict().items()}
    assert len(start_from(mine, kept(small, file)).taken) == len(small)
    model.load_state_dict({key: value.float() for key, value in small.items()})
    assert torch.equal(logits(mine, 32), logits(model, 32))


def test_safetensors_and_half_precision_are_read(tmp_path: Path) -> None:
    model, mine = theirs(DEIT).half(), ours(DEIT)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    start_from(mine, tmp_path / "weights.safetensors")
    assert all(value.dtype == torch.float32 for value in mine.state_dict().values())
    assert torch.equal(logits(mine, 32), logits(model.float(), 32))


def test_another_number_of_classes_has_a_new_classifier_and_the_rest_of_the_file(file: Path) -> None:
    mine = ours(SWIN, num_classes=7)
    before = copy.deepcopy(mine.head.state_dict())  # type: ignore[union-attr]
    started = start_from(mine, kept(theirs(SWIN).state_dict(), file))
    assert started.drawn == dict.fromkeys(["head.fc.weight", "head.fc.bias"], "the file's has 5 classes, this one 7")
    assert all(torch.equal(value, before[key]) for key, value in mine.head.state_dict().items())  # type: ignore[union-attr]
    told = printed(started)
    assert "head.fc.weight: the file's has 5 classes, this one 7" in told
    with pytest.raises(UsageError, match=r"model.head=keep: .* the file's has 5 classes, this one 7"):
        start_from(mine, file, head="keep")


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_another_window_is_resized_as_timm_does(file: Path) -> None:
    weights = theirs(SWIN).state_dict()
    mine = ours(SWIN, window_size=8, img_size=128)
    started = start_from(mine, kept(weights, file))
    now = mine.state_dict()
    assert len(started.resized) == 4
    for key in started.resized:
        expected = resize_rel_pos_bias_table(weights[key], new_window_size=(8, 8), new_bias_shape=now[key].shape)
        assert torch.equal(now[key], expected)
        assert started.resized[key] == "×".join(map(str, weights[key].shape)) + " to " + "×".join(
            map(str, now[key].shape)
        )
    assert torch.equal(now["norm.weight"], weights["norm.weight"])


def test_another_size_of_images_is_resized_as_timm_does(file: Path) -> None:
    weights = theirs(DEIT).state_dict()
    mine = ours(DEIT, img_size=48)
    started = start_from(mine, kept(weights, file))
    expected = resample_abs_pos_embed(weights["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(mine.pos_embed, expected)  # type: ignore[arg-type]
    assert started.resized == {"pos_embed": "1×17×24 to 1×37×24"}
    wide = ours(DEIT, img_size=(16, 64))
    # as many patches, in other places
    assert [*start_from(wide, file).resized] == ["pos_embed"]
    assert not torch.equal(wide.pos_embed, weights["pos_embed"])  # type: ignore[arg-type]


def test_positions_without_a_class_token_meet_a_model_that_has_one(file: Path) -> None:
    weights = ours(PVT, global_pool="avg").state_dict()
    mine = ours(PVT, img_size=32)
    drawn = mine.state_dict()["stages.1.pos_embed"][:, :1].clone()
    started = start_from(mine, kept(weights, file))
    now = mine.state_dict()["stages.1.pos_embed"]
    assert torch.equal(now[:, :1], drawn)
    expected = resample_abs_pos_embed(weights["stages.1.pos_embed"], new_size=[4, 4], num_prefix_tokens=0)
    assert torch.equal(now[:, 1:], expected)
    assert started.drawn == {"stages.1.cls_token": ""}


@pytest.mark.parametrize(("there", "here"), [(3, 1), (3, 4), (3, 6), (1, 3), (2, 1)])
@pytest.mark.parametrize("name", [SWIN, PVT, RESNET])
def test_other_channels_are_summed_or_repeated_as_timm_does(name: str, there: int, here: int, file: Path) -> None:
    model = ours(name, in_chans=there)
    mine = ours(name, in_chans=here)
    started = start_from(mine, kept(model.state_dict(), file))
    [key] = started.resized
    was, now = model.state_dict()[key], mine.state_dict()[key]
    expected = was.repeat(1, 3, 1, 1) / 3 if there == 1 else adapt_input_conv(here, was)
    assert torch.allclose(now, expected, rtol=1e-6)


def test_other_patches_are_resized_where_patches_lie_side_by_side(file: Path) -> None:
    mine = ours(DEIT, patch_size=16, img_size=64)
    assert [*start_from(mine, kept(theirs(DEIT).state_dict(), file)).resized] == ["patch_embed.proj.weight"]


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


def refused(model: nn.Module, weights: Any, file: Path) -> str:
    """The one line that refuses a file, which leaves the model as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError) as caught:
        start_from(model, kept(weights, file))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


# --- whose classes the rows of a classifier are -------------------------------------------------------------------


def checkpoint(classes: list[str], file: Path, **more: Any) -> dict[str, Tensor]:
    """A checkpoint of ours whose classifier says in its bias which row is which."""
    weights = theirs(DEIT).state_dict()
    weights["head.bias"] = torch.arange(5.0)
    kept({"format": "acmix", "version": 1, "classes": classes, "step": 9, **more, "model": weights}, file)
    return weights


@pytest.mark.parametrize(
    ("there", "here", "more", "rows", "said"),
    [
        ("abcde", "abcde", {}, [0, 1, 2, 3, 4], None),
        (["caf\u00e9", *"bcde"], ["cafe\u0301", *"bcde"], {}, [0, 1, 2, 3, 4], None),
        ("abcde", "ebcda", {}, [4, 1, 2, 3, 0], "rows in the order of the data's classes, by name"),
        ("abcde", "abcdf", {}, None, "'f' is none of them; model.head=keep keeps its rows"),
        ("01234", "abcde", {}, None, "'a' is none of them"),
        ("01234", ["2", "9", "10", "11", "30"], {"named": False}, [2, 4, 0, 1, 3], "names sorted as text"),
        ("01234", ["2", "9", "10", "11", "30"], {"step": 0}, [2, 4, 0, 1, 3], "names sorted as text"),
        ("01234", "abcde", {"named": False}, [0, 1, 2, 3, 4], "names sorted as text; model.head=new draws new ones"),
    ],
)
def test_the_names_of_classes_decide_about_rows(
    there: str, here: str, more: dict[str, Any], rows: list[int] | None, said: str | None, file: Path
) -> None:
    weights = checkpoint([*there], file, **more)
    mine = ours(DEIT)
    before = mine.state_dict()["head.weight"].clone()
    started = start_from(mine, file, classes=[*here])
    now = mine.state_dict()
    if rows is None:
        assert torch.equal(now["head.weight"], before)
        assert not torch.equal(now["head.weight"], weights["head.weight"])
    else:
        assert now["head.bias"].tolist() == rows
        assert torch.equal(now["head.weight"], weights["head.weight"][rows])
    assert (said or "taken") in printed(started)
    assert ("head.weight" in started.drawn) == (rows is None)


def test_a_setting_keeps_or_draws_the_classifier(file: Path) -> None:
    checkpoint([*"abcde"], file)
    mine = ours(DEIT)
    started = start_from(mine, file, classes=[*"vwxyz"], head="keep")
    assert mine.state_dict()["head.bias"].tolist() == [0, 1, 2, 3, 4]
    assert "as model.head=keep says" in printed(started)
    assert start_from(mine, file, classes=[*"abcde"], head="new").drawn["head.bias"] == "model.head=new"


@pytest.mark.parametrize("head", ["auto", "keep", "new"])
def test_a_body_without_a_classifier_starts_from_a_checkpoint_that_has_one(head: str, file: Path) -> None:
    weights = checkpoint([*"abcde"], file)
    body: Any = acmix.create_model(DEIT, features_only=True, conv_path=False, **SIZES[DEIT]).model
    started = start_from(body, file, head=head)
    assert {"head.weight", "head.bias"} <= {*started.left_out}
    assert torch.equal(body.state_dict()["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])


def test_weights_without_names_keep_their_rows_where_the_data_numbers_its_classes(file: Path) -> None:
    kept(theirs(DEIT).state_dict(), file)
    mine = ours(DEIT)
    start_from(mine, file, classes=["2", "9", "10", "11", "30"], sorted_names=False)
    assert torch.equal(logits(mine, 32), logits(theirs(DEIT), 32))


def test_too_few_names_are_refused(file: Path) -> None:
    checkpoint([*"abc"], file)
    with pytest.raises(UsageError, match="names 3 classes for 5 outputs"):
        start_from(ours(DEIT), file, classes=[*"abcde"])


@pytest.mark.parametrize(
    ("name", "ours", "said"),
    [
        ("vit_tiny_patch16_224", "acmix_swin_tiny_patch4_window7_224", "timm's ViT weights, set model.name to their"),
        ("vit_tiny_patch16_224", "acmix_deit_small_patch16_224", "such as deit_small_patch16_224, and model.add_conv"),
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
