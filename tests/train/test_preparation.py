"""Images are prepared as the weights want it, unless the user says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from acmix import config
from acmix.config import Config
from acmix.train import checkpoint
from acmix.train.loop import train
from acmix.train.preparation import settle
from tests.support.images import make_image_folder
from tests.support.tiny import last, tree

pytestmark = pytest.mark.usefixtures("undrawn")
RECIPE = "finetune/deit_small_patch16_224.yaml"
HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406)


def settled(*overrides: str, recipe: str = RECIPE) -> tuple[Config, list[str]]:
    return settle(config.load(recipe, overrides), Path("no such folder"))


def test_a_recipe_with_another_model_takes_what_its_weights_want_and_says_so() -> None:
    found, lines = settled("model.name=vit_base_patch16_224.augreg_in21k")
    assert (found.data.mean, found.data.std, found.data.img_size) == (HALF, HALF, 224)
    assert (found.data.crop_pct, found.data.interpolation) == (0.9, "bicubic")
    assert lines == [
        "data.mean, data.std, data.crop_pct: those of vit_base_patch16_224.augreg_in21k's weights: "
        "mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5], crop_pct 0.9"
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", dict(mean=HALF, img_size=384, crop_pct=1.0)),
        ("swin_base_patch4_window12_384", dict(mean=IMAGENET, img_size=384, crop_pct=1.0)),
        ("mobilenetv3_small_100.lamb_in1k", dict(mean=IMAGENET, img_size=224, interpolation="bicubic")),
        ("resnet50.tv_in1k", dict(mean=IMAGENET, img_size=224, interpolation="bilinear", crop_pct=0.875)),
        # CLIP's own mean
        ("vit_base_patch32_clip_224.openai", dict(mean=(0.48145466, 0.4578275, 0.40821073), img_size=224)),
    ],
)
def test_every_name_and_tag_has_its_own(name: str, expected: dict[str, Any]) -> None:
    found, _ = settled(f"model.name={name}")
    assert {key: getattr(found.data, key) for key in expected} == expected
    # a file of these weights wants the same
    assert settled(f"model.name={name}", "model.pretrained=weights.pth")[0].data == found.data


def test_what_the_user_set_stays_and_what_the_weights_want_is_said(tmp_path: Path) -> None:
    name = "vit_base_patch16_384.augreg_in21k_ft_in1k"
    found, lines = settled(f"model.name={name}", "data.mean=[0.1, 0.2, 0.3]", "data.img_size=64")
    assert (found.data.mean, found.data.std, found.data.img_size) == ((0.1, 0.2, 0.3), HALF, 64)
    assert lines[1:] == [f"data.mean [0.1, 0.2, 0.3], as set; that of {name}'s weights is [0.5, 0.5, 0.5]"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {name: vit_base_patch16_384, pretrained: true}\ndata: {std: [0.2, 0.2, 0.2]}")
    found, _ = settled(recipe=str(mine))
    assert (found.data.mean, found.data.std, found.data.img_size) == (HALF, (0.2, 0.2, 0.2), 384)
    found, _ = settled("data.std=auto", recipe=str(mine))
    assert found.data.std == HALF


@pytest.mark.parametrize(
    "overrides",
    [
        # drawn weights want nothing
        ["model.name=vit_base_patch16_384", "model.pretrained=false"],
        # what the weights want is what is there
        ["model.name=resnet50.tv_in1k", "data.interpolation=bilinear"],
        ["model.name=acmix_resnet50", "model.pretrained=false", "model.add_conv_path=false"],
        ["model.name=no_such_model"],
        ["model.name=resnet50.no_such_tag"],
    ],
)
def test_nothing_is_said_where_nothing_is_taken(overrides: list[str]) -> None:
    found, lines = settled(*overrides)
    assert (found.data.mean, found.data.img_size, found.data.crop_pct) == (IMAGENET, 224, 0.875)
    assert lines == []


def test_the_shipped_fine_tuning_recipes_leave_it_to_the_weights() -> None:
    for name in ("swin_tiny_patch4_window7_224", "deit_small_patch16_224", "pvt_v2_b1"):
        assert not set(config.WEIGHTS_DECIDE) & config.load(f"finetune/{name}").data.model_fields_set
        cfg = timm.get_pretrained_cfg(name)
        found, _ = settled(recipe=f"finetune/{name}")
        assert (found.data.mean, found.data.crop_pct) == (cfg.mean, cfg.crop_pct)


def test_our_own_checkpoint_hands_on_what_it_was_trained_with(tmp_path: Path) -> None:
    then = config.load("acmix_swin_digits")
    file = tmp_path / "ours.pt"
    checkpoint.save(file, dict(config=then.model_dump(mode="json"), classes=["a"], model={}))
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"model: {{num_classes: 3, in_chans: 1, checkpoint: {file}}}\n")
    found, lines = settled(recipe=str(mine))
    assert (found.data.mean, found.data.std, found.data.img_size) == ((0.3,), (0.35,), 32)
    assert lines == [
        f"data.mean, data.std, data.img_size, data.crop_pct: those of {file}'s weights: "
        "mean [0.3], std [0.35], img_size 32, crop_pct 1"
    ]


@pytest.mark.parametrize("overrides", [(), ("task.name=detect",)])
def test_weights_that_read_grey_give_their_mean_to_every_channel(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    then = config.load("acmix_swin_digits")
    file = tmp_path / "grey.pt"
    checkpoint.save(file, dict(config=then.model_dump(mode="json"), classes=["a"], model={}))
    found, lines = settled(f"model.checkpoint={file}", *overrides, recipe="acmix_swin_tiny_patch4_window7_224")
    assert (found.data.mean, found.data.std) == ((0.3, 0.3, 0.3), (0.35, 0.35, 0.35))
    assert "mean [0.3, 0.3, 0.3], std [0.35, 0.35, 0.35]" in lines[0]


def test_weights_of_a_name_of_ours_want_what_the_name_says(tmp_path: Path) -> None:
    file = tmp_path / "released.pth"
    torch.save({"model": {}}, file)
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"model: {{name: acmix_swin_tiny_patch4_window12_384, checkpoint: {file}}}\n")
    assert settled(recipe=str(mine))[0].data.img_size == 384


def test_a_run_trains_with_it_says_it_and_goes_on_without_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_image_folder(tmp_path / "images", 4, train_per_class=2, val_per_class=1, size=40)
    shape: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("vit_base_patch16_224", num_classes=4, **shape).state_dict(), weights)
    settings = tree(data, "train.epochs=1", "train.ema_decay=null", "train.batch_size=2", "data.img_size=32")
    settings["model"] = dict(name="vit_base_patch16_224.augreg_in21k", num_classes=4, pretrained=str(weights))
    settings["model"]["args"] = {key: value for key, value in shape.items() if key != "img_size"}  # pyright: ignore[reportArgumentType]
    train(config.validate(settings), tmp_path / "run")
    said = capsys.readouterr().out
    assert "data.mean, data.std" in said
    assert "those of vit_base_patch16_224.augreg_in21k's weights: " in said
    assert last(tmp_path / "run")["config"]["data"]["mean"] == list(HALF)
    # as it was set
    assert config.load(tmp_path / "run" / "config.yaml").data.crop_pct == 1.0
    weights.unlink()
    settings["train"]["epochs"] = 2
    train(config.validate(settings), tmp_path / "run")
    said = capsys.readouterr().out
    assert "train.epochs 1 → 2: the learning rate" in said
    assert "data.mean" not in said
    assert last(tmp_path / "run")["config"]["data"]["mean"] == list(HALF)
