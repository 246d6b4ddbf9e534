"""Files go from the released code to ours and back without losing a bit; a bad one leaves no trace."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import acmix
from acmix import config
from acmix.errors import UsageError
from acmix.released import from_official, load_config
from acmix.released.safe_load import safe_load
from acmix.tools.convert import convert
from acmix.train.checkpoint import read, restore_model, save
from tests.support.paths import DATA

TOY = DATA / "official_checkpoint_toy.pth"
TINY = "acmix_swin_tiny_patch4_window7_224"


@pytest.fixture
def ours(tmp_path):
    """The released toy checkpoint as one of ours."""
    convert(TOY, tmp_path / "ours.pt")
    return tmp_path / "ours.pt"


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_released_checkpoint_becomes_one_of_ours_with_the_golden_logits(tmp_path, suffix):
    done = convert(TOY, tmp_path / f"ours{suffix}")
    restored = restore_model(tmp_path / f"ours{suffix}")
    golden = load_file(DATA / "swin_tiny_toy.safetensors")
    with torch.no_grad():
        logits = restored.model.double()(golden["input"].double())
    assert (logits - golden["output"]).abs().max() <= 1e-9 * golden["output"].abs().max()
    assert restored.classes == [str(number) for number in range(10)]
    assert (done.source, done.destination) == (TOY, tmp_path / f"ours{suffix}")
    assert TINY in done.summary
    assert "\n" not in done.summary


def test_released_weights_have_rows_in_the_order_of_names_as_text(tmp_path, ours):
    contents = read(ours)
    assert contents["named"] is False
    names = [str(number) for number in range(2, 12)]
    save(tmp_path / "named.pt", {**contents, "classes": names, "named": True})
    done = convert(tmp_path / "named.pt", tmp_path / "back.pth")
    assert "in the order of the names sorted as text" in done.summary
    order = [names.index(name) for name in sorted(names)]
    assert order[:3] == [8, 9, 0]
    back = safe_load(tmp_path / "back.pth")["model"]
    for there, here in (("head.weight", "head.fc.weight"), ("head.bias", "head.fc.bias")):
        assert torch.equal(back[there], contents["model"][here][order])
    # numbers in place of names stay as they are
    assert "sorted" not in convert(ours, tmp_path / "same.pth").summary
    assert torch.equal(safe_load(tmp_path / "same.pth")["model"]["head.bias"], contents["model"]["head.fc.bias"])


def test_how_images_are_prepared_is_said_where_the_released_layout_cannot_hold_it(tmp_path, ours):
    assert "does not hold" not in convert(ours, tmp_path / "same.pth").summary
    contents = read(ours)
    contents["config"]["data"] |= {"mean": [0.3], "std": [0.35], "crop_pct": 1.0}
    contents["config"]["model"]["in_chans"] = 1
    stem = "patch_embed.proj.weight"
    contents["model"][stem] = contents["model"][stem].sum(1, keepdim=True)
    save(tmp_path / "grey.pt", contents)
    summary = convert(tmp_path / "grey.pt", tmp_path / "grey.pth").summary
    assert "data.mean=[0.3] (there [0.485, 0.456, 0.406]), data.std=[0.35]" in summary
    assert "data.crop_pct=1.0 (there 0.875)" in summary
    assert "\n" not in summary


def test_the_configuration_in_a_released_checkpoint_is_kept(ours):
    settings = config.validate(read(ours)["config"])
    args = dict(embed_dim=24, depths=[2, 2], num_heads=[3, 6], window_size=4, mlp_ratio=2.0)
    assert (settings.model.name, settings.model.args) == (TINY, args)
    assert (settings.model.num_classes, settings.data.img_size, settings.train.epochs) == (10, 64, 300)
    assert settings.model.drop_path_rate == 0.0


def test_released_to_ours_and_back_is_exact(tmp_path, ours):
    convert(ours, tmp_path / "back.pth")
    back = safe_load(tmp_path / "back.pth")
    assert equal(back["model"], safe_load(TOY)["model"])
    assert back["config"]["MODEL"]["SWIN"]["DEPTHS"] == [2, 2]


def test_ours_to_released_and_back_is_exact(tmp_path, ours):
    convert(ours, tmp_path / "released.pth")
    convert(tmp_path / "released.pth", tmp_path / "again.pt")
    first, again = read(ours), read(tmp_path / "again.pt")
    assert equal(first["model"], again["model"])
    for key in ("model", "data"):
        assert first["config"][key] == again["config"][key]


def test_safetensors_carry_weights_configuration_and_classes(tmp_path, ours):
    for source in (TOY, ours):
        convert(source, tmp_path / "ours.safetensors")
        content = read(tmp_path / "ours.safetensors")
        assert equal(content["model"], read(ours)["model"])
        assert content["config"] == read(ours)["config"]
        with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["acmix"])["classes"] == read(ours)["classes"]
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    assert equal(safe_load(tmp_path / "back.pth")["model"], safe_load(TOY)["model"])


def test_weights_without_a_configuration_are_sized_by_themselves(tmp_path):
    weights = safe_load(TOY)["model"]
    torch.save({"model": weights}, tmp_path / "bare.pth")
    torch.save(weights, tmp_path / "barer.pth")
    save_file(weights, tmp_path / "tensors.safetensors")
    for name in ("bare.pth", "barer.pth", "tensors.safetensors"):
        convert(tmp_path / name, tmp_path / "ours.pt")
        restored = restore_model(tmp_path / "ours.pt")
        assert restored.config.data.img_size == 64
        assert equal(restored.model.state_dict(), from_official(weights, TINY))


def test_plain_weights_become_a_baseline(tmp_path):
    settings: dict[str, Any] = dict(
        img_size=64, embed_dim=24, depths=(2, 2), num_heads=(3, 6), window_size=4, num_classes=10
    )
    model = acmix.create_model(TINY, conv_path=False, **settings)
    torch.save({"model": acmix.to_official(model.state_dict(), TINY, img_size=64)}, tmp_path / "plain.pth")
    convert(tmp_path / "plain.pth", tmp_path / "ours.pt")
    restored = restore_model(tmp_path / "ours.pt")
    assert not restored.config.model.conv_path
    assert equal(restored.model.state_dict(), model.state_dict())
    convert(tmp_path / "ours.pt", tmp_path / "back.pth")
    convert(tmp_path / "back.pth", tmp_path / "again.pt")
    assert not restore_model(tmp_path / "again.pt").config.model.conv_path


def test_training_settings_that_mean_nothing_here_do_not_stop_the_weights(tmp_path):
    content = safe_load(TOY)
    content["config"]["TRAIN"]["LR_SCHEDULER"] = {"NAME": "step"}
    torch.save(content, tmp_path / "step.pth")
    done = convert(tmp_path / "step.pth", tmp_path / "ours.pt")
    assert "TRAIN.LR_SCHEDULER.NAME='step'" in done.summary
    assert equal(read(tmp_path / "ours.pt")["model"], from_official(content, TINY))


def test_the_average_of_the_weights_is_what_is_converted(tmp_path, ours):
    content = read(ours)
    content["average"] = {key: value + 1 for key, value in content["model"].items()}
    save(tmp_path / "last.pt", content)
    convert(tmp_path / "last.pt", tmp_path / "released.pth")
    expected = safe_load(TOY)["model"]["norm.bias"] + 1
    assert torch.equal(safe_load(tmp_path / "released.pth")["model"]["norm.bias"], expected)


def test_a_released_configuration_becomes_ours_and_ours_a_released_one(tmp_path):
    released = {"MODEL": {"TYPE": "swin_acmix", "NAME": TINY, "DROP_PATH_RATE": 0.2}, "TRAIN": {"EPOCHS": 30}}
    (tmp_path / "released.yaml").write_text(yaml.safe_dump(released))
    convert(tmp_path / "released.yaml", tmp_path / "ours.yaml")
    assert load_config(tmp_path / "ours.yaml") == load_config(tmp_path / "released.yaml")
    done = convert(tmp_path / "ours.yaml", tmp_path / "back.yml")
    assert yaml.safe_load((tmp_path / "back.yml").read_text())["TRAIN"]["EPOCHS"] == 30
    assert load_config(tmp_path / "back.yml") == load_config(tmp_path / "ours.yaml")
    assert TINY in done.summary


def refused(source, destination, match, name=None):
    """Checks that the refusal is one line and that nothing is left in the destination's folder."""
    before = {path: path.read_bytes() for path in Path(source).parent.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match=match) as caught:
        convert(source, destination, name=name)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in Path(source).parent.iterdir() if path.is_file()}


def test_the_source_is_never_overwritten(tmp_path, ours):
    refused(ours, ours, "the source itself")
    (tmp_path / "link.pth").symlink_to(ours)
    refused(ours, tmp_path / "link.pth", "the source itself")
    refused(ours, tmp_path / "." / "ours.pt", "the source itself")


def test_places_that_cannot_be_written_to_are_refused(tmp_path, ours):
    refused(ours, tmp_path / "absent" / "file.pth", "no folder")
    refused(ours, ours / "file.pth", "no folder")
    refused(ours, tmp_path, "is a folder")
    refused(ours, tmp_path / "file.txt", r"\.pt or \.pth or \.safetensors")
    refused(ours, tmp_path / "file.yaml", r"\.pt or \.pth or \.safetensors")
    refused(ours, tmp_path / ("x" * 252 + ".pth"), "cannot write")
    # as long as a name may be
    convert(ours, tmp_path / ("x" * 251 + ".pth"))


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "short.pth").write_bytes(TOY.read_bytes()[:5000])
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "unknown.yaml").write_text("model: {nam: x}")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"model": {"conv1.weight": torch.ones(1)}}, tmp_path / "other.pth")
    torch.save({"format": "acmix"}, tmp_path / "hollow.pt")
    refused(tmp_path / "absent.pth", tmp_path / "new.pt", "no file")
    refused(tmp_path / "short.pth", tmp_path / "new.pt", "truncated")
    refused(tmp_path / "broken.yaml", tmp_path / "new.yaml", "not YAML")
    (tmp_path / "broken.yaml").write_text("model: " + "[" * 3000)
    refused(tmp_path / "broken.yaml", tmp_path / "new.yaml", "not YAML")
    refused(tmp_path / "list.yaml", tmp_path / "new.yaml", "list")
    refused(tmp_path / "unknown.yaml", tmp_path / "new.yaml", "model.name")
    refused(tmp_path / "empty.pth", tmp_path / "new.pt", "expected a tensor")
    refused(tmp_path / "other.pth", tmp_path / "new.pt", r"do not know: conv1\.weight; .*lacks: patch_embed")
    refused(tmp_path / "hollow.pt", tmp_path / "new.pth", "hollow.pt has version None")


def test_a_name_that_does_not_fit_is_refused(tmp_path, ours):
    refused(TOY, tmp_path / "new.pt", "acmix_swin_", name="acmix_resnet50")
    refused(TOY, tmp_path / "new.pt", "no model", name="acmix_swin_huge")
    refused(ours, tmp_path / "new.pth", f"holds {TINY}", name="acmix_swin_base_patch4_window7_224")


def test_a_name_decides_which_variant_the_weights_become(tmp_path):
    convert(TOY, tmp_path / "ours.pt", name="acmix_swin_small_patch4_window7_224")
    restored = restore_model(tmp_path / "ours.pt")
    assert restored.config.model.name == "acmix_swin_small_patch4_window7_224"
    assert restored.config.model.args["depths"] == [2, 2]
