"""What the files of a run's weights hold, and starting from one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from acmix.config import validate
from acmix.data import evaluation_transform, read_image
from acmix.errors import UsageError
from acmix.models.build import build_model
from acmix.tasks.classify import Classification
from acmix.train.checkpoint import load_weights, read, restore_model, save
from acmix.train.loop import train
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_best_checkpoint_is_the_averaged_weights_without_an_optimizer(finished: Path) -> None:
    best, whole = read(finished / "checkpoints" / "best.pt"), last(finished)
    assert not {"optimizer", "scaler", "average"} & best.keys()
    assert {"optimizer", "scaler", "average", "model"} <= whole.keys()
    restored = restore_model(finished / "checkpoints" / "last.pt").model.state_dict()
    assert all(torch.equal(restored[key], value) for key, value in whole["average"].items())
    assert not torch.equal(whole["model"]["head.fc.weight"], whole["average"]["head.fc.weight"])


def test_a_checkpoint_to_start_from_gives_its_weights_and_may_be_gone_later(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    start = shutil.copy(finished / "checkpoints" / "best.pt", tmp_path / "start.pt")
    tuned = ("train.epochs=1", "optimizer.lr=1e-12", f"model.checkpoint={start}", "train.ema_decay=null")
    settings = tiny_config(data, *tuned, "schedule.warmup_lr=0", "schedule.min_lr=0")
    train(settings, tmp_path / "run")
    ours, theirs = last(tmp_path / "run")["model"], read(start)["model"]
    assert max((ours[key] - theirs[key]).abs().max().item() for key in theirs) < 1e-9
    Path(start).unlink()
    train(settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": 2})}), tmp_path / "run")


def test_weights_that_are_no_tensors_are_refused_in_one_line() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError) as caught:
        load_weights(model, {**model.state_dict(), "bias": 3}, "some.pt")
    assert str(caught.value) == "some.pt holds the weights of another model: 1 no plain tensors (first: bias)"


HUGE = {
    "masks of many windows": ("swin_tiny_patch4_window7_224", {"window_size": 7}, 16_384, False),
    "tables of large windows": ("swin_tiny_patch4_window7_224", {"window_size": 256}, 2048, False),
    "those of timm's model below added paths": ("swin_tiny_patch4_window7_224", {"window_size": 256}, 2048, True),
    "positions on a large grid": ("beit_base_patch16_224", {"num_heads": 4}, 2048, False),
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_that_ask_for_much_memory_beside_the_weights_are_refused_before_it_is_taken(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, sizes, side, added = HUGE[case]
    shape = dict(depths=[2, 1], num_heads=[1, 1]) if "swin" in name else dict(depth=1)
    tree = tiny_config("").model_dump(mode="json")
    tree["model"] |= {"name": name, "args": {"embed_dim": 8, **shape, **sizes}, "add_conv_path": added}
    tree["data"]["img_size"] = side
    config = validate(tree)
    with torch.device("meta"):
        needed = build_model(config).state_dict()
    weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in needed.items()}
    save(tmp_path / "huge.pt", {"config": tree, "classes": [str(each) for each in range(CLASSES)], "model": weights})
    taken: list[str] = []

    def build(task: Any) -> Any:
        taken.append(str(torch.get_default_device()))
        return plain(task)

    plain = Classification.build
    monkeypatch.setattr(Classification, "build", build)
    with pytest.raises(
        UsageError, match=rf"huge\.pt asks {name} for [\d.,]+ GiB of tables beside its weights, more than 1 GiB"
    ) as caught:
        restore_model(tmp_path / "huge.pt")
    assert "\n" not in str(caught.value)
    # nothing was built in memory
    assert {*taken} == {"meta"}


def plain_weights(file: Path, **sizes: Any) -> Path:
    """timm's Swin of the sizes of the tiny runs, as timm saves it."""
    torch.manual_seed(5)
    args = dict(embed_dim=12, depths=(1, 1), num_heads=(1, 2), window_size=4, img_size=32, num_classes=CLASSES)
    torch.save(timm.create_model("swin_tiny_patch4_window7_224", **{**args, **sizes}).state_dict(), file)
    return file


def test_a_run_tells_once_what_it_starts_from(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = plain_weights(tmp_path / "[red]weights.pth", num_classes=9, window_size=3)
    file_keys = torch.load(file)
    changes = ("train.epochs=1", f"model.checkpoint={json.dumps(str(file))}")
    train(tiny_config(data, *changes), tmp_path / "run")
    said = capsys.readouterr().out
    assert re.search(r"taken +\d+ ", said)
    assert re.search(r"resized +2 ", said)
    assert "head.fc.weight: the file's has 9 classes, this one 4" in " ".join(said.split())
    assert "[red]weights.pth" in "".join(said.split())
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    [start] = [line for line in map(json.loads, lines) if line["event"] == "start"]
    assert len(start["weights"]["taken"]) + 2 + 2 == len(file_keys)
    assert start["weights"]["drawn"]["layers.0.blocks.0.attn.rate_attention"] == "1"
    assert start["weights"]["left_out"] == []
    # resuming starts from the run's own checkpoint, and does not miss the file
    file.unlink()
    train(tiny_config(data, *changes, "train.epochs=2"), tmp_path / "run")
    assert "taken" not in capsys.readouterr().out


def test_a_run_takes_rows_by_name_from_a_checkpoint_of_another_order(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    contents = read(finished / "checkpoints" / "best.pt")
    turned = {**contents, "classes": contents["classes"][::-1]}
    start = tmp_path / "start.pt"
    save(start, turned)
    still = (
        "train.epochs=1",
        "optimizer.lr=1e-12",
        "schedule.warmup_lr=0",
        "schedule.min_lr=0",
        "train.ema_decay=null",
    )
    train(tiny_config(data, *still, f"model.checkpoint={start}"), tmp_path / "run")
    ours = last(tmp_path / "run")["model"]
    assert (ours["head.fc.bias"] - contents["model"]["head.fc.bias"].flip(0)).abs().max() < 1e-9


@pytest.mark.parametrize("told", [(9, ()), (4, ("model.head=new",))], ids=["other classes", "head=new"])
def test_a_frozen_model_trains_a_classifier_that_its_weights_lack(
    told: tuple[int, tuple[str, ...]], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = plain_weights(tmp_path / "weights.pth", num_classes=told[0])
    changes = (
        "model.name=swin_tiny_patch4_window7_224", "model.add_conv_path=true", "model.freeze=true",
        "train.ema_decay=null", f"model.checkpoint={file}", *told[1],
    )  # fmt: skip
    train(tiny_config(data, *changes, "train.epochs=1"), tmp_path / "run")
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model.freeze")]
    assert said.endswith("path parameters and the new classifier head.fc are trained")
    file.unlink()
    # a resumed run trains the same
    train(tiny_config(data, *changes, "train.epochs=2"), tmp_path / "run")
    assert said in capsys.readouterr().out
    saved = last(tmp_path / "run")
    assert {name for name in saved["trained"] if "attn." not in name} == {"head.fc.weight", "head.fc.bias"}
    moments = saved["optimizer"]["state"]
    assert len(moments) == len(saved["trained"])
    assert saved["model"]["head.fc.bias"].abs().max() > 0


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "b"], "names 2 classes for 4 outputs"),
        ([1, 2, 3, 4], "classes.0 is not as acmix writes it"),
        ([*"abca"], "two classes 'a'"),
    ],
)
def test_names_that_do_not_fit_the_outputs_are_refused(
    classes: list[Any], said: str, acmix: Any, data: Path, finished: Path, tmp_path: Path
) -> None:
    save(tmp_path / "few.pt", {**read(finished / "checkpoints" / "best.pt"), "classes": classes})
    picture = next(data.rglob("*.JPEG"))
    for command in (["predict", picture], ["evaluate", "--data", data]):
        status, _, errors = acmix(command[0], tmp_path / "few.pt", *command[1:])
        assert status == 2
        one_error(errors, said)


def test_converted_weights_are_measured_in_the_order_they_were_trained_in(acmix: Any, tmp_path: Path) -> None:
    # 12 classes, whose order as numbers is not that of their text
    root = make_image_folder(tmp_path / "images", 12, train_per_class=2, val_per_class=1, size=32)
    for folder in sorted(root.glob("*/class_*")):
        folder.rename(folder.with_name(str(int(folder.name[-2:]))))
    settings = tiny_config(root, "model.num_classes=12", "train.epochs=1", "model.drop_path_rate=0")
    torch.manual_seed(0)
    model: Any = build_model(settings).eval()
    transform: Any = evaluation_transform(settings.data, 3)
    names = sorted(path.name for path in (root / "val").iterdir())
    images = torch.stack([transform(read_image(next((root / "val" / name).iterdir()))) for name in names])
    with torch.no_grad():
        # a classifier that knows each image: row i is the class of the i-th name as text
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        features = features - features.mean(0)
        inverse = torch.linalg.pinv(features.double()).T.float()
        model.head.fc.weight.copy_(inverse)
        model.head.fc.bias.zero_()
        right = (model(images).argmax(1) == torch.arange(12)).sum().item()
    assert right >= 6
    contents = dict(config=settings.model_dump(mode="json"), classes=[str(n) for n in range(12)], metrics={}, epoch=0)
    save(tmp_path / "ours.pt", {**contents, "step": 0, "named": False, "model": model.state_dict()})
    status, said, _ = acmix("evaluate", tmp_path / "ours.pt", "--data", root, "--json")
    assert status == 0
    assert round(json.loads(said)["top1"] * 12 / 100) == right
