"""Run folders with a checkpoint of drawn weights, or the checkpoint alone."""

from __future__ import annotations

from pathlib import Path

import torch

from acmix.models.build import build_model
from acmix.train import checkpoint
from tests.support.runs import log_lines, write_run
from tests.support.tiny import CLASSES, tiny_config

NAMES = [f"class_{number:02d}" for number in range(CLASSES)]
METRICS = {"top1": 75.0, "top5": 100.0}


def write_classifier(folder: Path, data: Path | str, *overrides: str, classes: list[str] | None = None) -> Path:
    """A run of a tiny classifier that was not trained."""
    write_run(folder, config=tiny_config(data, *overrides), lines=log_lines(epochs=2))
    (folder / "checkpoints").mkdir()
    write_checkpoint(folder / "checkpoints" / "best.pt", data, *overrides, classes=classes)
    return folder


def write_checkpoint(file: Path, data: Path | str, *overrides: str, classes: list[str] | None = None) -> Path:
    """Its checkpoint alone."""
    config = tiny_config(data, *overrides)
    torch.manual_seed(0)
    contents = {"config": config.model_dump(mode="json"), "classes": classes or NAMES, "step": 20, "epoch": 2}
    contents |= {"metrics": {**METRICS, "val_loss": 1.0}, "model": build_model(config).state_dict()}
    checkpoint.save(file, contents)
    return file
