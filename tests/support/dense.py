"""Detection and segmentation runs that take seconds: shrunken networks on a few small scenes of real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from acmix.config import Config, validate
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes

SWIN = {
    "name": "acmix_swin_tiny_patch4_window7_224",
    "drop_path_rate": 0.2,
    "args": {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
}
TASKS: dict[str, dict[str, Any]] = {
    "detect": {
        "name": "detect",
        "head": "mask_rcnn",
        "num_classes": 10,
        "min_size": [48, 64],
        "max_size": 96,
        "crop": [32, 48],
        "photometric": True,
        "args": {"channels": 16, "hidden": 32, "samples": 32, "proposals": 50},
    },
    "segment": {
        "name": "segment",
        "head": "upernet",
        "num_classes": 11,
        "min_size": [64],
        "max_size": 128,
        "crop": [48],
        "args": {"channels": 16, "auxiliary_channels": 16},
    },
}
SPLITS = {"detect": ("train2017", "val2017"), "segment": ("training", "validation")}


def write_scenes(task: str, root: Path) -> Path:
    """Sixteen images to train on and four to validate on."""
    write = write_detection_scenes if task == "detect" else write_segmentation_scenes
    return write(root, images=(16, 4), size=64)


def dense_tree(task: str, data: Path | str, *overrides: str) -> dict[str, Any]:
    """The settings of a run of 3 epochs of 4 steps, with `section.key=value` changes."""
    train, val = SPLITS[task]
    tree: dict[str, Any] = {
        "task": dict(TASKS[task]),
        "model": dict(SWIN),
        "data": {"dir": str(data), "train_split": train, "val_split": val, "workers": 0},
        "optimizer": {"lr": 1e-3, "base_batch_size": None},
        "schedule": {"name": "poly", "warmup_steps": 2},
        "train": {"epochs": 3, "batch_size": 2, "accumulation": 2, "log_every_steps": 1, "tensorboard": False},
    }
    for override in overrides:
        key, _, value = override.partition("=")
        section, *names, name = key.split(".")
        place = tree[section]
        for each in names:
            place[each] = dict(place[each])
            place = place[each]
        place[name] = yaml.safe_load(value)
    return tree


def dense_config(task: str, data: Path | str, *overrides: str) -> Config:
    """The settings, checked."""
    return validate(dense_tree(task, data, *overrides))


def write_dense_config(path: Path, task: str, data: Path | str, *overrides: str) -> Path:
    """The settings as a file."""
    path.write_text(yaml.safe_dump(dense_tree(task, data, *overrides)), encoding="utf-8")
    return path
