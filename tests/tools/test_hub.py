"""Models as folders of the Hugging Face hub: timm and acmix read from them what was saved, and nothing else."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config

import acmix
from acmix.errors import UsageError
from acmix.tools.hub_config import without_places
from tests.support.checks import Hostile
from tests.support.downstream import detection_config, segmentation_config, write_downstream_run
from tests.support.paths import ROOT
from tests.support.saved import METRICS, NAMES, write_classifier
from tests.support.tiny import tiny_config

SMALL: dict[str, dict[str, Any]] = {
    "acmix_swin_tiny_patch4_window7_224": dict(
        embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4, img_size=32, conv_path=False
    ),
    "acmix_resnet26": dict(layers=[1, 1], width=8, attention_size=3, in_chans=1),
    "acmix_san10": dict(layers=[1, 1, 1, 1, 1], width=32, sizes=[3, 3, 3, 3, 3]),
    "acmix_pvt_tiny": dict(img_size=64, embed_dims=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    "acmix_deit_tiny_patch16_224": dict(img_size=32, embed_dim=24, depth=2, num_heads=2),
    "resnet10t": dict(),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("asks a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(
        tmp_path_factory.mktemp("hub") / "run", data, "data.crop_pct=0.9", "data.mean=[0.4,0.5,0.6]"
    )


@pytest.fixture(scope="module")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "my model"
    return acmix.save_pretrained(run, folder, license="cc-by-4.0", dataset="Owls | at\tnight")


def by_timm(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def outputs(model: torch.nn.Module, *shape: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.rand(shape, generator=torch.Generator().manual_seed(1)))


def test_timm_and_acmix_give_what_the_run_gives_bit_for_bit(run: Path, saved: Path) -> None:
    model, info = acmix.load(run)
    again, about = acmix.from_pretrained(saved)
    expected = outputs(model, 3, 3, 32, 32)
    found = by_timm(saved)
    assert torch.equal(outputs(again, 3, 3, 32, 32), expected)
    assert torch.equal(outputs(found, 3, 3, 32, 32), expected)
    assert (about.classes, about.metrics, about.epoch) == (NAMES, METRICS, 2)
    for field in ("model", "img_size", "in_chans", "mean", "std", "interpolation", "crop_pct", "top1"):
        assert getattr(about, field) == getattr(info, field)
    cfg: Any = found.pretrained_cfg
    told = resolve_data_config({}, pretrained_cfg=cfg, model=found)
    assert (told["input_size"], told["crop_pct"], told["interpolation"]) == ((3, 32, 32), 0.9, "bicubic")
    assert ([*told["mean"]], [*cfg["label_names"]]) == ([0.4, 0.5, 0.6], NAMES)


def test_how_pictures_are_cut_is_saved_as_it_was_done(run: Path, tmp_path: Path) -> None:
    # some of timm's weights squash pictures; a run that begins with them cuts out the middle
    trained, info = acmix.load(run)
    bare: Any = timm.create_model("resnet18", num_classes=3)
    each: Any
    for each, name in ((trained, "trained"), (bare, "bare")):
        each.pretrained_cfg = {**each.pretrained_cfg, "crop_mode": "squash"}
        acmix.save_pretrained(each, tmp_path / name)
    modes = [acmix.load(tmp_path / name)[1].crop_mode for name in ("trained", "bare")]
    assert [info.crop_mode, *modes] == ["center", "center", "squash"]
    told = by_timm(tmp_path / "trained").pretrained_cfg
    assert resolve_data_config({}, pretrained_cfg=told)["crop_mode"] == "center"


@pytest.mark.parametrize("name", SMALL)
def test_a_model_in_memory_is_saved_with_its_arguments(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = acmix.create_model(name, num_classes=3, **SMALL[name]).train()
    folder = acmix.save_pretrained(model, tmp_path / "saved", classes=["a", "b", "c"])
    assert model.training
    again, info = acmix.load(folder)
    shape = (2, info.in_chans, *((info.img_size,) * 2 if isinstance(info.img_size, int) else info.img_size))
    assert torch.equal(outputs(again, *shape), outputs(model.eval(), *shape))
    assert (info.classes, info.are_named) == (["a", "b", "c"], True)
    assert "No licence of the weights is stated" in (folder / "README.md").read_text()
    assert "license" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_detector_and_a_segmenter_are_saved_for_acmix(task: str, tmp_path: Path) -> None:
    config = detection_config("/nowhere") if task == "detect" else segmentation_config("/nowhere")
    names = [f"c{number}" for number in range(config.task.num_classes or 0)]
    run = write_downstream_run(tmp_path / "run", config, names, {"box_ap": 12.0} if task == "detect" else {"miou": 3.0})
    folder = acmix.save_pretrained(run, tmp_path / "saved")
    (model, _), (again, info) = acmix.load(run), acmix.load(folder)
    image = torch.rand(3, 48, 64)
    with torch.inference_mode():
        expected, found = ([each([image])[0]] if task == "detect" else each(image[None]) for each in (model, again))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (info.task, info.head, info.classes) == (task, config.task.head, names)
    assert "timm has no such models" in (folder / "README.md").read_text()


def test_a_folder_is_found_in_the_users_home(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert acmix.load(f"~/{saved.name}")[1].classes == NAMES


def test_predict_and_evaluate_take_the_folder(
    run: Path, saved: Path, data: Path, acmix: Callable[..., tuple[int, str, str]]
) -> None:
    picture = next((data / "val" / "class_00").iterdir())
    given = [
        [acmix(*command) for command in (
            ("predict", source, picture, "--json"),
            ("evaluate", source, "--data", data, "--workers", 0, "--json"),
        )]
        for source in (run, saved)
    ]  # fmt: skip
    of_run, of_folder = ([(status, said) for status, said, _ in each] for each in given)
    assert of_run == of_folder
    assert [status for status, _ in of_run] == [0, 0]


def test_the_card_tells_what_the_run_left_and_nothing_of_the_machine(run: Path, saved: Path, data: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    told: Any = card.data
    assert (told.library_name, told.license, told.pipeline_tag) == ("timm", "cc-by-4.0", "image-classification")
    [top1, top5] = told.eval_results
    assert (top1.metric_type, top1.metric_value, top5.metric_value) == ("accuracy", 75.0, 100.0)
    for said in ("import acmix  # registers", "| top-1 | 75.00 |", "Owls &#124; at&#92;tnight", "class_00, class_01",
                 "weight decay 0.05", "after 2 epochs", "seed 0", "Start: random weights"):  # fmt: skip
        assert said in card.text, said
    written = (saved / "README.md").read_text() + (saved / "config.json").read_text()
    for place in (str(data), str(run), str(data.parent.parent), str(ROOT), socket.gethostname()):
        assert place not in written


def test_splits_and_readers_of_one_machine_are_left_out() -> None:
    data = without_places(tiny_config("photos", "data.val_split=s3://mine/{0..9}.tar", "data.format=wds/"))["data"]
    assert "val_split" not in data
    assert data["format"] == "auto"
    assert not {"dir", "workers", "cache_gib", "train_split"} & data.keys()


def test_names_of_classes_cannot_write_into_the_card(tmp_path: Path) -> None:
    names = ["a`b", "<img src=x>", "![x](http://e.example)", "---\nlicense: mit"]
    run = write_classifier(tmp_path / "run", "", classes=names)
    folder = acmix.save_pretrained(run, tmp_path / "saved")
    assert acmix.load(folder)[1].classes == names
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict().get("license") is None
    for part in ("<img", "](http", "\nlicense"):
        assert part not in card.text.partition("## Data")[2]


def test_what_cannot_be_built_again_is_refused_and_nothing_is_written(tmp_path: Path, saved: Path, run: Path) -> None:
    model = acmix.create_model("acmix_resnet26", num_classes=3, layers=[1, 1], width=8)
    replaced = timm.create_model("resnet10t")
    acmix.replace_conv(replaced, ["layer4.*.conv2"])
    built: Any = acmix.create_model("acmix_resnet26", num_classes=3, layers=[1, 1], width=8)
    built.fc = torch.nn.Linear(built.fc.in_features, 3, bias=False)
    upgraded = acmix.add_conv_path("vit_tiny_patch16_224", pretrained=False, depth=2)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (acmix.fold(model), {}, "timm does not build this model again"),
        (replaced, {}, "timm does not build this model again"),
        (built, {}, "timm does not build this model again"),
        (upgraded, {}, "timm does not build this model again"),
        (torch.nn.Linear(2, 2), {}, "a Linear in memory does not tell how it is built"),
        (acmix.create_model("acmix_resnet26", layers=[1, 1], width=8).half(), {}, "they are saved in float32"),
        (model, {"classes": ["a"]}, "1 names of classes are given for 3 outputs"),
        (run, {"classes": NAMES}, "this one has those of its run"),
        (run, {"license": "my own!"}, "expected one such as apache-2.0"),
    ]
    for given, named, said in cases:
        with pytest.raises(UsageError, match=said) as caught:
            acmix.save_pretrained(given, tmp_path / "new", **named)
        assert "\n" not in str(caught.value)
        assert [*tmp_path.iterdir()] == []
    before = (saved / "README.md").read_bytes()
    with pytest.raises(UsageError, match=r"holds a config\.json already"):
        acmix.save_pretrained(run, saved)
    assert (saved / "README.md").read_bytes() == before


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes config.json."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another network": (
        lambda c: c["acmix"]["config"]["model"].update(name="acmix_pvt_tiny"),
        "acmix_pvt_tiny takes no such",
    ),
    "huge": (lambda c: c["acmix"]["config"]["model"]["args"].update(embed_dim=16384), "weights of another model"),
    "without end": (lambda c: c["acmix"]["config"]["model"]["args"].update(depths=[10**9]), "at most"),
    "fetches": (lambda c: c["acmix"]["config"]["model"]["args"].update(pretrained_cfg_overlay="x"), "pretrained_cfg"),
    "a checkpoint": (lambda c: c["acmix"]["config"]["model"].update(checkpoint=["../x"]), "checkpoint"),
    "classes": (lambda c: c["acmix"].update(classes=["a"]), "names 1 classes for 4 outputs"),
    "other weights": (lambda c: c["acmix"].update(sha256="0" * 64), "is not the file that config.json"),
    "a path": (lambda c: c["acmix"].update(sha256="../../../../etc/passwd"), "damaged section"),
    "no section": (lambda c: c.update(acmix=[1]), r"holds '\[1\]' as acmix, not fields"),
    "another version": (lambda c: c["acmix"].update(version=2), "damaged section"),
}
HOSTILE_TO_TIMM: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an address": (lambda c: c.update(architecture="hf-hub:someone/else"), "is no model of timm's"),
    "no name": (lambda c: c.update(architecture=["resnet18"]), "is no model of timm's"),
    "huge": (lambda c: c["model_args"].update(embed_dim=16384), "asks for a model of"),
    "without end": (lambda c: c["model_args"].update(depths=[10**9]), "expected numbers of at most"),
    "a file": (lambda c: c["model_args"].update(checkpoint_path="../x.pth"), "is not taken from a file"),
    "an overlay": (lambda c: c["model_args"].update(pretrained_cfg_overlay={"url": "x"}), "is not taken from a file"),
    "a dictionary": (lambda c: c["model_args"].update(depths={"a": 1}), "expected plain values"),
    "no arguments": (lambda c: c.update(model_args=[1]), "where fields are expected"),
    "another interpolation": (lambda c: c["pretrained_cfg"].update(interpolation="foo"), "interpolation is foo"),
    "nothing to divide by": (lambda c: c["pretrained_cfg"].update(std=[0, 0, 0]), r"std\.0 is 0"),
    "no crop": (lambda c: c["pretrained_cfg"].update(crop_pct="x"), "crop_pct is x"),
    "a crop below 0": (lambda c: c["pretrained_cfg"].update(crop_pct=-1), "crop_pct is -1"),
    "huge images": (lambda c: c["pretrained_cfg"].update(input_size=[3, 30000, 30000]), r"input_size\.1 is 30000"),
    "images below 0": (lambda c: c["pretrained_cfg"].update(input_size=[3, -32, 32]), r"input_size\.1 is -32"),
    "half a pixel": (lambda c: c["pretrained_cfg"].update(input_size=[3, 32.5, 32]), r"input_size\.1 is 32\.5"),
    "no mean": (lambda c: c["pretrained_cfg"].update(mean="a"), "mean is a"),
    "no preparation": (lambda c: c.update(pretrained_cfg="x"), "where fields are expected"),
}


@pytest.mark.parametrize("content", ["", "null", "[]", "[" * 100_000, '{"acmix": 1' + "0" * 5000 + "}"], ids=range(5))
def test_a_configuration_that_cannot_be_read_is_one_line(content: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json says of no model .* get the folder again"):
        acmix.load(folder)


@pytest.mark.parametrize("case", [*HOSTILE, *(f"timm: {each}" for each in HOSTILE_TO_TIMM)])
def test_a_hostile_configuration_is_one_line(case: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    name = case.removeprefix("timm: ")
    change, said = (HOSTILE if name == case else HOSTILE_TO_TIMM)[name]
    if name != case:
        changed(folder, lambda content: content.pop("acmix"))
    changed(folder, change)
    with pytest.raises(UsageError, match=said) as caught:
        acmix.load(folder)
    assert "\n" not in str(caught.value)


def test_addresses_in_a_configuration_are_not_followed(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    changed(folder, lambda content: content.pop("acmix"))
    there = dict(url="http://e.example/x.pth", hf_hub_id="someone/else", hf_hub_filename="../../x", file="../x.pth",
                 source="hf-hub", state_dict={"a": 1})  # fmt: skip
    changed(folder, lambda content: content["pretrained_cfg"].update(there))
    assert torch.equal(outputs(acmix.load(folder)[0], 1, 3, 32, 32), outputs(by_timm(saved), 1, 3, 32, 32))


def test_hostile_weights_are_one_line(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    tensors = load_file(saved / "model.safetensors")
    extra = tmp_path / "extra"
    save_file({**tensors, "../../x": torch.zeros(1)}, extra)
    huge = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}).encode()
    for ours in (True, False):
        folder = Path(shutil.copytree(saved, tmp_path / str(ours)))
        if not ours:
            changed(folder, lambda content: content.pop("acmix"))
        broken = [b"", b"torn", whole[:-100], extra.read_bytes(), b"\xff" * 8 + b"{}"]
        for content in (*broken, len(huge).to_bytes(8, "little") + huge + b"1234"):
            (folder / "model.safetensors").write_bytes(content)
            with pytest.raises(UsageError) as caught:
                acmix.load(folder)
            assert "\n" not in str(caught.value)
        (folder / "model.safetensors").unlink()
        hostile = pickle.dumps(Hostile(tmp_path / "executed"), protocol=2)
        (folder / "pytorch_model.bin").write_bytes(hostile + bytes(len(whole)))
        with pytest.raises(UsageError):
            acmix.load(folder)
        assert not (tmp_path / "executed").exists()
    (folder / "config.json").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(UsageError, match="which no model's has"):
        acmix.load(folder)
