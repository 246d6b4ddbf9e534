"""A trained model in one call: built as trained, from whatever a user has of it."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from timm.models._hub import save_for_hf

import acmix
from acmix.config import Config
from acmix.data.image import evaluation_transform, read_image
from acmix.errors import UsageError
from acmix.models import download
from acmix.models.build import build_model
from acmix.tools.convert import convert
from acmix.tools.load import info_of, load
from acmix.train.checkpoint import read, restore_model, save
from acmix.train.loop import train
from tests.support.checks import Hostile
from tests.support.paths import DATA
from tests.support.tiny import CLASSES, tiny_config, tree

TOY = DATA / "official_checkpoint_toy.pth"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, with an average of the weights."""
    output = tmp_path_factory.mktemp("load") / "run"
    train(tiny_config(data, "train.epochs=1"), output)
    return output


@pytest.fixture(scope="module")
def picture(data: Path) -> Path:
    return next((data / "val" / "class_00").iterdir())


def logits(model: torch.nn.Module, picture: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(picture[None])[0]


def test_a_run_folder_gives_its_best_checkpoint_as_trained(run: Path, picture: Path) -> None:
    model, info = acmix.load(run)
    expected = restore_model(run / "checkpoints" / "best.pt")
    assert info.path == run / "checkpoints" / "best.pt"
    assert (info.kind, info.model, info.are_named) == ("checkpoint", expected.config.model.name, True)
    assert info.classes == [f"class_{number:02d}" for number in range(CLASSES)]
    assert (info.img_size, info.in_chans, info.crop_pct, info.epoch) == (32, 3, 1.0, 1)
    assert info.path is not None
    assert info.top1 == read(info.path)["metrics"]["top1"]
    assert info.config == expected.config
    assert not model.training
    prepared = info.transform(picture)
    evaluated: Any = evaluation_transform(expected.config.data)(read_image(picture))
    assert torch.equal(prepared, evaluated)
    assert torch.equal(logits(model, prepared), logits(expected.model, prepared))


def test_a_run_in_its_middle_gives_the_average_of_last_pt(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "checkpoints")
    model, info = load(tmp_path)
    assert info.path == tmp_path / "checkpoints" / "last.pt"
    assert info.path is not None
    average = read(info.path)["average"]
    assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())
    # the folder of the checkpoints itself, and a home folder, are understood too
    assert load(tmp_path / "checkpoints")[1].path == tmp_path / "checkpoints" / "last.pt"


def test_the_transform_takes_a_picture_in_any_form(run: Path, picture: Path) -> None:
    transform = load(run)[1].transform
    image = Image.open(picture)
    array = np.asarray(image)
    expected = transform(picture)
    forms = [str(picture), picture.read_bytes(), image, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    assert all(torch.equal(transform(form), expected) for form in forms)
    with open(picture, "rb") as file:
        assert torch.equal(transform(file), expected)
    for wrong, said in ((array / 255, "array of float64"), (array[None], r"expected \(H, W\)"), (7, "is a int")):
        with pytest.raises(UsageError, match=said):
            transform(wrong)


@pytest.mark.slow
def test_the_info_travels_with_copies_and_folded_forms(run: Path) -> None:
    model, info = load(run)
    forms = [copy.deepcopy(model), acmix.fold(model), torch.nn.DataParallel(model), torch.compile(model)]
    forms.append(pickle.loads(pickle.dumps(model)))
    assert [getattr(info_of(form), "classes", None) for form in forms] == [info.classes] * 5
    assert info_of(torch.nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["model.in_chans=1", "data.img_size=56"], (1, 56, 56)),
        (["model.in_chans=4"], None),
        (["model.num_classes=3", "data.mean=[0.1, 0.2, 0.3]", "data.interpolation=random"], (3, 32, 32)),
    ],
)
def test_sizes_and_channels_are_those_of_the_checkpoint(
    picture: Path, tmp_path: Path, overrides: list[str], size: tuple[int, ...] | None
) -> None:
    config = Config.model_validate(tree("", *overrides))
    classes = [str(number) for number in range(config.model.num_classes)]
    save(tmp_path / "x.pt", dict(
        config=config.model_dump(mode="json"), classes=classes, named=False, step=0, epoch=0, metrics={},
        model=build_model(config).state_dict(),
    ))  # fmt: skip
    model, info = load(tmp_path / "x.pt", device="cpu")
    assert (info.classes, info.are_named, info.top1, info.epoch) == (classes, False, None, None)
    assert info.in_chans == config.model.in_chans
    if size is None:
        with pytest.raises(UsageError, match="it reads 4 channels"):
            info.transform(picture)
        return
    assert info.transform(picture).shape == size
    assert logits(model, info.transform(picture)).shape == (config.model.num_classes,)
    assert len(info.mean) == size[0]


def test_a_released_checkpoint_gives_what_converting_it_gives(picture: Path, tmp_path: Path) -> None:
    model, info = load(TOY)
    for ours in (tmp_path / "ours.pt", tmp_path / "ours.safetensors"):
        convert(TOY, ours)
        converted, other = load(ours)
        assert (other.kind, info.kind) == ("checkpoint", "released checkpoint")
        assert (other.classes, other.img_size, other.are_named) == (info.classes, info.img_size, False)
        prepared = info.transform(picture)
        assert torch.equal(logits(model, prepared), logits(converted, other.transform(picture)))


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A copy of a repository of the hub, as a machine without a network has it."""
    model = timm.create_model("resnet10t")
    (tmp_path / "repository").mkdir()
    save_for_hf(model, str(tmp_path / "repository"))
    return tmp_path / "repository"


def test_published_weights_bring_their_preparation_and_their_names(snapshot: Path, picture: Path) -> None:
    model, info = load(snapshot)
    assert (info.kind, info.model, info.img_size, info.crop_pct) == ("published weights", "resnet10t", 176, 0.875)
    assert (len(info.classes), len({*info.classes}), info.are_named) == (1000, 1000, True)
    assert info.classes[0] == "tench, Tinca tinca"
    # two kinds have that name
    assert [name for name in info.classes if name.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]
    assert logits(model, info.transform(picture)).shape == (1000,)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resnet10t", {}, "asks for a model of"),
        ("vit_tiny_patch16_224", {"embed_dim": 16_384, "num_heads": 1}, "asks for a model of"),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "num_heads": [1] * 4, "window_size": 256, "img_size": 2048},
         "GiB of tables beside its weights, more than 1 GiB; get the folder again"),
    ],
)  # fmt: skip
def test_a_copy_of_a_repository_that_asks_for_much_memory_is_refused_before_it_is_taken(
    name: str, arguments: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": name, "pretrained_cfg": {}, "model_args": arguments})
    )
    size = 10_000_000 if "swin" in name else 1000
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    plain = timm.create_model

    def on_meta(*given: Any, **named: Any) -> Any:
        assert torch.get_default_device().type == "meta"
        return plain(*given, **named)

    monkeypatch.setattr(timm, "create_model", on_meta)
    with pytest.raises(UsageError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_copy_of_a_repository_is_one_line(snapshot: Path) -> None:
    weights, config = snapshot / "pytorch_model.bin", snapshot / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    hostile = pickle.dumps(Hostile(snapshot / "executed"), protocol=2)
    for damaged, content, said in (
        (weights, whole[:5000], "asks for a model of 5,441,374 numbers, and its files hold"),
        (weights, whole[:-5000], "cannot load the published weights"),
        (weights, hostile + bytes(len(whole)), "cannot load the published weights"),
        (config, text.replace('"resnet10t"', '"no_such_model"'), "cannot load the published weights"),
        (config, text.replace('"architecture"', '"other"'), "is no run folder"),
    ):
        weights.write_bytes(whole)
        config.write_text(text)
        damaged.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UsageError, match=said) as caught:
            load(snapshot)
        assert "\n" not in str(caught.value)
    (snapshot / "model.safetensors").write_bytes(b"torn")
    config.write_text(text)
    with pytest.raises(UsageError, match="cannot load the published weights"):
        load(snapshot)
    assert not (snapshot / "executed").exists()


def test_without_a_network_a_name_of_the_hub_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "is_reachable", lambda server: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    for name in ("resnet18.a1_in1k", "resnet18", "hf-hub:nobody/nothing"):
        with pytest.raises(UsageError, match=f"cannot reach .* for the weights of '{name}'"):
            load(name)
    for build in (acmix.add_conv_path, lambda name, **given: acmix.create_detector("fcos", name, **given)):
        with pytest.raises(UsageError, match=r"cannot download the weights of 'resnet18': .* download them elsewhere"):
            build("resnet18", pretrained=True)
    assert time.monotonic() - began < 10
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "no checkpoint is given"),
        ("nothing.pt", "there is no checkpoint nothing.pt"),
        ("{folder}", "is no run folder: it holds no checkpoints/best.pt or last.pt"),
        ("{begun}", "is a run that has saved nothing yet"),
        ("acmix_resnet26", "acmix_resnet26 has no published weights"),
        ("resnet18.nothing", "timm has no weights 'resnet18.nothing'; there are: resnet18.a1_in1k"),
        ("resnt18", "did you mean 'resnet18'?"),
        ("someone/something", "write hf-hub:someone/something"),
        ("{hostile}.pt", "refused, nothing was executed"),
        ("{hostile}.pt2", "refused, nothing was executed"),
        ("{hostile}.pth", "refused, nothing was executed"),
        ("{hostile}.onnx", "is damaged, or not ONNX"),
        ("{weights}", "is no checkpoint of acmix and none of the released code"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, source: str, said: str) -> None:
    places = {name: tmp_path / name for name in ("folder", "begun", "hostile", "weights")}
    places["folder"].mkdir()
    places["begun"].mkdir()
    (places["begun"] / "config.yaml").write_text("")
    for suffix in (".pt", ".pt2", ".pth", ".onnx"):
        content = {"model": Hostile(tmp_path / "executed")}
        places["hostile"].with_suffix(suffix).write_bytes(pickle.dumps(content, protocol=2))
    torch.save(torch.nn.Linear(2, 2).state_dict(), places["weights"])
    with pytest.raises(UsageError) as caught:
        load(source.format(**places))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("repeats", [False, True])
def test_a_checkpoint_takes_no_more_memory_than_its_weights(run: Path, tmp_path: Path, repeats: bool) -> None:
    contents = read(run / "checkpoints" / "best.pt")
    # gigabytes, also where one number of the file stands for all of it
    contents["config"]["model"]["num_classes"] = 10**6
    if repeats:
        for name in ("head.fc.weight", "head.fc.bias"):
            tensor = contents["model"][name]
            contents["model"][name] = torch.zeros(1).expand(10**6, *tensor.shape[1:])
    contents.pop("average", None)
    # a file by hand
    contents.pop("digest")
    torch.save(contents, tmp_path / "huge.pt")
    wrong = "no plain tensors" if repeats else "of another shape"
    with pytest.raises(UsageError, match=f"holds the weights of another model: 2 {wrong}"):
        load(tmp_path / "huge.pt")


@pytest.mark.parametrize("source", [None, 5, b"runs/x", []])
def test_what_is_no_path_is_one_line(source: Any) -> None:
    with pytest.raises(UsageError, match=f"load got a {type(source).__name__}; expected a path"):
        load(source)


def test_options_of_exports_are_refused_elsewhere(run: Path) -> None:
    with pytest.raises(UsageError, match="img_size and classes are for exports"):
        load(run, img_size=64)
    with pytest.raises(UsageError, match="device 'cuda7' is unknown"):
        load(run, device="cuda7")
