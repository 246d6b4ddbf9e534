"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix.train.loop import train
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, tiny_config


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test's runs their pictures, which cost more than a tiny run's steps."""
    for name in ("draw_curves", "draw_paths"):
        monkeypatch.setattr(f"acmix.train.epoch_end.{name}", lambda folder: None)


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, evaluated every other one, with more steps between two records than an epoch has."""
    output = tmp_path_factory.mktemp("train") / "finished"
    changes = ("train.epochs=3", "train.evaluate_every_epochs=2", "train.log_every_steps=50", "train.tensorboard=true")
    train(tiny_config(data, *changes), output)
    return output


@pytest.fixture(scope="session")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training images: five steps of 8."""
    root = tmp_path_factory.mktemp("train")
    return make_image_folder(root / "images", CLASSES, train_per_class=10, val_per_class=3, size=40)


@pytest.fixture(scope="session")
def whole(forty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on `forty` that nothing interrupted, to be left as it is."""
    output = tmp_path_factory.mktemp("train") / "whole"
    train(tiny_config(forty), output)
    return output
