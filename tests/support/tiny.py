"""Runs that take seconds: a network of a few thousand parameters on small real JPEG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from acmix.config import Config, validate
from acmix.train.checkpoint import read
from acmix.train.plots import read_log

CLASSES = 4

# every source of chance is on: mixup, cutmix, drop path, erasing, flips, crops; and an average is kept
SETTINGS: dict[str, Any] = {
    "model": {
        "num_classes": CLASSES,
        "drop_path_rate": 0.2,
        "args": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    },
    "data": {"img_size": 32, "crop_pct": 1.0, "workers": 0},
    "augment": {"auto_augment": None, "random_erasing": 0.5},
    "optimizer": {"lr": 2e-3, "base_batch_size": None},
    # half of the first epoch also where a run has only one
    "schedule": {"warmup_epochs": 0.5, "warmup_share": 1.0},
    "train": {
        "epochs": 2,
        "batch_size": 4,
        "accumulation": 2,
        "ema_decay": 0.9,
        "log_every_steps": 1,
        "tensorboard": False,
    },
}
# no chance but the order of the images: what a step does is the same however the batch is divided
PLAIN = (
    "model.drop_path_rate=0",
    "augment.mixup=0",
    "augment.cutmix=0",
    "augment.random_erasing=0",
    "train.ema_decay=null",
    "train.accumulation=1",
)


def tree(data: Path | str, *overrides: str) -> dict[str, Any]:
    """The settings as plain dictionaries, with `section.key=value` changes."""
    settings = yaml.safe_load(yaml.safe_dump(SETTINGS))
    settings["data"]["dir"] = str(data)
    for override in overrides:
        key, _, value = override.partition("=")
        section, name = key.split(".")
        settings[section][name] = yaml.safe_load(value)
    return settings


def tiny_config(data: Path | str, *overrides: str) -> Config:
    """The settings, checked."""
    return validate(tree(data, *overrides))


def write_config(path: Path, data: Path | str = "", *overrides: str) -> Path:
    """The settings as a file."""
    path.write_text(yaml.safe_dump(tree(data, *overrides)), encoding="utf-8")
    return path


def last(folder: Path) -> dict[str, Any]:
    """What last.pt of a run holds."""
    return read(folder / "checkpoints" / "last.pt")


def has_step(folder: Path, step: int) -> Callable[[], bool]:
    """Whether a run has logged a step."""
    log = folder / "log.jsonl"
    return lambda: log.is_file() and any(record["step"] >= step for record in read_log(folder).steps[-1:])
