"""A timm model with its own weights and added paths, trained, resumed, evaluated and predicted with like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from acmix.train.checkpoint import restore_model
from acmix.train.loop import train
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.processes import command
from tests.support.tiny import CLASSES, last, tiny_config

SHAPE: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
TOLD = (
    "model.name=deit_small_patch16_224",
    "model.args={patch_size: 8, embed_dim: 24, depth: 3, num_heads: 3}",
    "model.add_conv_path=true",
    "optimizer.layer_decay=0.5",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetune")
    return make_image_folder(root / "images", CLASSES, train_per_class=4, val_per_class=2, size=40)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights as timm saves them."""
    torch.manual_seed(5)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("deit_small_patch16_224", **SHAPE).state_dict(), file)
    return file


@pytest.mark.slow
def test_frozen_weights_stay_and_a_run_goes_on_without_the_file_it_started_from(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    then = torch.load(weights)
    changes = (*TOLD, f"model.pretrained={weights}", "model.freeze=true", "train.ema_decay=null")
    train(tiny_config(data, *changes, "train.epochs=1"), tmp_path / "run")
    weights.unlink()
    train(tiny_config(data, *changes, "train.epochs=2"), tmp_path / "run")
    now = last(tmp_path / "run")["model"]
    assert all(torch.equal(now[key], value) for key, value in then.items() if not key.startswith("head"))
    rates = [value.item() for key, value in now.items() if key.endswith("rate_conv")]
    assert len(rates) == 2
    assert all(rates)
    restored = restore_model(tmp_path / "run" / "checkpoints" / "best.pt")
    assert restored.model(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)


def test_all_of_it_is_trained_with_falling_rates(data: Path, weights: Path, tmp_path: Path) -> None:
    then = torch.load(weights)
    train(tiny_config(data, *TOLD, f"model.pretrained={weights}", "train.epochs=1"), tmp_path / "run")
    saved = last(tmp_path / "run")
    moved = [
        (saved["model"][f"blocks.{i}.mlp.fc1.weight"] - then[f"blocks.{i}.mlp.fc1.weight"]).norm() for i in range(3)
    ]
    assert 0 < moved[0] < moved[1] < moved[2]
    assert (tmp_path / "run" / "paths.png").is_file()


def test_weights_that_cannot_be_read_are_one_line_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for file, said in (
        (tmp_path / "broken.pth", "does not hold the weights"),
        (tmp_path / "none.pth", "is not a file"),
    ):
        told = ("--output", tmp_path / "run", *TOLD, f"model.pretrained={file}", "data.img_size=32", "train.epochs=1")
        sized = (f"model.num_classes={CLASSES}", "train.batch_size=4")
        [end] = command("train", "acmix_resnet26_digits.yaml", "--data", data, *told, *sized).finish()
        assert end.status == 2, end.errors
        one_error(end.errors, said)
        assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
