"""What a run finds in its folder: it goes on from it, or says why it cannot and leaves it alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from acmix.errors import UsageError
from acmix.models import create_model
from acmix.train.loop import Run, train
from acmix.train.plots import read_log
from acmix.train.state import memory_format
from tests.support.checks import Hostile
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, last, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")
# 40 training images, 8 a step
STEPS_PER_EPOCH = 5


@pytest.fixture
def data(forty: Path) -> Path:
    return forty


def test_a_finished_run_says_so_and_changes_nothing(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    # neither a step nor an evaluation is made again
    for work in ("take_step", "evaluate"):
        monkeypatch.delattr(Run, work)
    summary = train(tiny_config(data), whole)
    assert "this run is finished" in capsys.readouterr().out
    assert summary == json.loads((whole / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_finished_run_goes_on_when_epochs_are_raised(data: Path, tmp_path: Path) -> None:
    assert train(tiny_config(data, "train.epochs=1"), tmp_path)["epochs"] == 1
    assert train(tiny_config(data, "train.epochs=2"), tmp_path)["epochs"] == 2
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2 * STEPS_PER_EPOCH
    assert [record["epoch"] for record in read_log(tmp_path).epochs] == [1, 2]


@pytest.mark.slow
def test_weight_decay_may_change_between_two_calls(data: Path, tmp_path: Path) -> None:
    train(tiny_config(data, "train.epochs=1"), tmp_path)
    train(tiny_config(data, "train.epochs=2", "optimizer.weight_decay=0.3"), tmp_path)
    assert {group["weight_decay"] for group in last(tmp_path)["optimizer"]["param_groups"]} == {0.0, 0.3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=2", "global batch size 8, now it would be 4"),
        ("model.name=acmix_swin_small_patch4_window7_224", "model.name acmix_swin_tiny_patch4_window7_224, now"),
        ("model.conv_path=false", "holds the weights of another model: 10 unknown"),
        ("model.args={embed_dim: 24, depths: [1, 1], num_heads: [1, 2], window_size: 4}", "of another shape"),
        ("optimizer.name=sgd", "optimizer.name adamw, now it would be sgd"),
        ("optimizer.weight_decay=0", "has other parameter groups"),
        ("optimizer.no_decay=nothing", "since optimizer.weight_decay, optimizer.no_decay, optimizer.layer_decay or"),
        ("train.ema_decay=null", "train.ema_decay 0.9, now it would be null"),
        ("train.seed=1", "train.seed 0, now it would be 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(data: Path, whole: Path, override: str, said: str) -> None:
    before = (whole / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, "train.epochs=3", override), whole)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert (whole / "checkpoints" / "last.pt").read_bytes() == before


def test_a_checkpoint_of_other_classes_is_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    make_image_folder(tmp_path, classes=CLASSES, train_per_class=10, val_per_class=1, size=40)
    for split in ("train", "val"):
        (tmp_path / split / "class_03").rename(tmp_path / split / "zebra")
    with pytest.raises(UsageError, match="was trained on other classes than those of"):
        train(tiny_config(tmp_path), whole)


@pytest.mark.parametrize("kind", ["truncated", "empty", "hostile", "weights alone"])
def test_a_last_pt_that_cannot_be_gone_on_from_is_one_line_and_stays(
    data: Path, whole: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "checkpoints" / "last.pt"
    target.parent.mkdir()
    executed = tmp_path / "executed"
    content = {
        "truncated": (whole / "checkpoints" / "last.pt").read_bytes()[:5000],
        "empty": b"",
        "hostile": pickle.dumps({"format": "acmix", "model": Hostile(executed)}),
        "weights alone": (whole / "checkpoints" / "best.pt").read_bytes(),
    }[kind]
    target.write_bytes(content)
    with pytest.raises(UsageError) as error:
        train(tiny_config(data), tmp_path)
    assert str(target) in str(error.value)
    assert "\n" not in str(error.value)
    assert target.read_bytes() == content
    assert not executed.exists()


def test_channels_last_is_chosen_for_networks_of_convolutions_on_a_gpu() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    with torch.device("meta"):
        swin = create_model("acmix_swin_tiny_patch4_window7_224")
        resnet = create_model("acmix_resnet26")
    assert memory_format(resnet, None, cuda) == torch.channels_last
    assert memory_format(swin, None, cuda) == memory_format(resnet, None, cpu) == torch.contiguous_format
    assert memory_format(resnet, False, cuda) == torch.contiguous_format
    assert memory_format(swin, True, cpu) == torch.channels_last
