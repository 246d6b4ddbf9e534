"""Runs of detection and segmentation as a training leaves them, without training: tiny networks, drawn weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from acmix.config import Config, validate
from acmix.data.scenes import write_detection_scenes, write_segmentation_scenes
from acmix.tasks import task_of
from acmix.train import checkpoint
from tests.support.runs import log_lines, write_run

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHAPE = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4}
SIZES = {"min_size": 48, "max_size": 64}
# the box head of a detector that has learned nothing finds little that it is sure of
DETECT = {"channels": 16, "hidden": 16, "proposals": 20, "samples": 16, "detections": 10, "score_threshold": 0.01}


def detection_config(data: Path | str, head: str = "mask_rcnn", **task: Any) -> Config:
    """A detector of ten digits."""
    args = DETECT if "rcnn" in head else {key: DETECT[key] for key in ("channels", "detections", "score_threshold")}
    settings = {"name": "detect", "head": head, "num_classes": 10, **SIZES, "args": args, **task}
    return config(data, settings, train_split="train2017", val_split="val2017")


def segmentation_config(data: Path | str, head: str = "semantic_fpn", **task: Any) -> Config:
    """A segmenter of the ground and ten digits."""
    args = {"channels": 16}
    settings = {"name": "segment", "head": head, "num_classes": 11, **SIZES, "crop": 48, "args": args, **task}
    return config(data, settings, train_split="training", val_split="validation")


def config(data: Path | str, task: dict[str, Any], **splits: str) -> Config:
    """A configuration of seconds."""
    return validate(
        {
            "model": {"args": SHAPE},
            "task": task,
            "data": {"dir": str(data), "workers": 0, **splits},
            "train": {"epochs": 2, "batch_size": 2, "tensorboard": False},
        }
    )


def detection_data(folder: Path, images: int = 4) -> Path:
    """Digits in COCO's format."""
    return write_detection_scenes(folder, images=(2, images), size=64)


def segmentation_data(folder: Path, images: int = 4) -> Path:
    """Digits in ADE20K's format."""
    return write_segmentation_scenes(folder, images=(2, images), size=64)


def write_downstream_run(folder: Path, config: Config, classes: list[str], metrics: dict[str, float]) -> Path:
    """A run folder with a checkpoint of drawn weights, and a log in which metrics rise to those given."""
    task, torch_seed = task_of(config), 0
    lines = log_lines(epochs=2)
    lines[0] |= {"metric": task.metric, "shown": list(task.shown)}
    for number, line in enumerate([line for line in lines if line["event"] == "epoch"], 1):
        for key in ("top1", "top5", "val_loss"):
            line.pop(key)
        line |= {name: value * number / 2 for name, value in metrics.items()} | {"val_images": 4}
    for line in lines:
        if line["event"] == "step":
            line["losses"] = {"loss_box_reg": 0.4 * line["loss"], "loss_classifier": 0.6 * line["loss"]}
    write_run(folder, config=config, lines=lines)
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    torch.manual_seed(torch_seed)
    contents = {"config": config.model_dump(mode="json"), "classes": classes, "step": 20, "epoch": 2}
    contents |= {"metrics": {**metrics, "images_per_second": 9.0}, "model": task.build().state_dict()}
    checkpoint.save(folder / "checkpoints" / "best.pt", contents)
    return folder
