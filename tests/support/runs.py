"""Writes run folders such as a training leaves behind, without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from acmix import config as configuration
from acmix.config import Config

STEPS_PER_EPOCH = 10
BLOCKS = [f"layers.{stage}.blocks.{block}.attn" for stage in (0, 1) for block in (0, 1)]


def log_lines(
    epochs: int = 6, blocks: list[str] | None = None, unreadable: list[str] | None = None
) -> list[dict[str, Any]]:
    """The records of a run in which convolution gains early blocks and attention late ones."""
    blocks = BLOCKS if blocks is None else blocks
    lines: list[dict[str, Any]] = [
        {
            "event": "start",
            "time": 1_763_830_000.0,
            "command": "acmix train digits.yaml --data data/digits 'train.epochs=6'",
            "commit": "3099cd1",
            "versions": {"python": "3.11.2", "torch": "2.15.0"},
            "device": "a processor (2 threads)",
            "processes": 1,
            "config": {},
            "parameters": 226_412,
            "steps_per_epoch": STEPS_PER_EPOCH,
        }
    ]
    for epoch in range(epochs):
        for step in range(epoch * STEPS_PER_EPOCH + 5, (epoch + 1) * STEPS_PER_EPOCH + 1, 5):
            passed = step / (epochs * STEPS_PER_EPOCH)
            lines.append(
                {
                    "event": "step",
                    "step": step,
                    "epoch": epoch,
                    "loss": 0.5 + 2 * math.exp(-4 * passed),
                    "lr": 0.75e-3 * (1 + math.cos(math.pi * passed)),
                    "grad_norm": 0.8,
                    "images_per_second": 900.0,
                    "memory_mib": None,
                    "eta_seconds": 1.0,
                }
            )
        passed = (epoch + 1) / epochs
        lean = {block: 0.3 * passed * (2 * depth / len(blocks) - 0.7) for depth, block in enumerate(blocks)}
        lines.append(
            {
                "event": "epoch",
                "epoch": epoch,
                "step": (epoch + 1) * STEPS_PER_EPOCH,
                "train_loss": 0.5 + 2 * math.exp(-4 * passed),
                "val_loss": 2 * math.exp(-5 * passed),
                "top1": 98 - 70 * math.exp(-5 * passed),
                "top5": 100 - 40 * math.exp(-6 * passed),
                "seconds": 3.2,
                "images_per_second": 880.0,
                "rates": {block: [0.5 + lean[block], 0.5 - lean[block]] for block in blocks},
                "unreadable": unreadable or [],
            }
        )
    return lines


def write_run(folder: Path, *, config: Config | None = None, lines: list[dict[str, Any]] | None = None) -> Path:
    """Writes config.yaml and log.jsonl, and summary.json as of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = log_lines() if lines is None else lines
    epochs = sum(line["event"] == "epoch" for line in lines)
    config = config or Config.model_validate({"train": {"epochs": max(1, epochs)}})
    (folder / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    summary = {"top1": 97.78, "top5": 99.9, "images_per_second": 881.4, "epochs": epochs, "parameters": 226_412}
    (folder / "summary.json").write_text(json.dumps({**summary, "device": "a processor"}), encoding="utf-8")
    return folder
