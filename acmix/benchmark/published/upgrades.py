"""Trains timm's models with and without added convolution paths for a few steps on handwritten digits.

python benchmarks/upgrade.py [--steps N] [--seeds N]

Both start from the same weights, drawn, as none are shipped here, and see the same batches. Writes
benchmarks/results/upgrade.csv: the largest difference of logits before the first step, how many of the new parameters
have moved, and the mean loss of the last ten steps beside the plain model's; and upgrade.png, the losses. Ends with
status 1 where logits differ by more than 1e-5 or a new parameter has not moved.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import acmix
from acmix.data.digits import choose_held_out, load_digits
from acmix.train.log import duration

BATCH, LEARNING_RATE, BOUND, LAST = 16, 1e-4, 1e-5, 10
# full models on small images
MODELS = {
    "swin_tiny_patch4_window7_224": dict(img_size=56),
    "deit_small_patch16_224": dict(img_size=64),
    "pvt_v2_b1": dict(),
}
# at 56 pixels no window of Swin is padded: timm's attends to padding, ours does not
SIDES = {"swin_tiny_patch4_window7_224": 56}


def digits(side: int) -> tuple[Tensor, Tensor]:
    """Images (n, 1, side, side) and labels (n,) of the training part."""
    pictures, labels = load_digits()
    held_out = choose_held_out(labels)
    kept = [i for i in range(len(labels)) if i not in held_out]
    images = torch.tensor(pictures[kept], dtype=torch.float32)[:, None] / 16 - 0.3
    return F.interpolate(images, size=(side, side), mode="bilinear"), torch.tensor(labels[kept])


def train(model: nn.Module, images: Tensor, labels: Tensor, seed: int, steps: int) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05, fused=True)
    losses = []
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=draw)
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(root: Path) -> int:
    """Trains everything; the exit status: 1 where a row misses a bound.

    Args:
        root: of the repository.
    """
    results = root / "benchmarks" / "results"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    told = parser.parse_args()
    rows, curves, began, wrong = [], {}, time.monotonic(), 0
    for name, kwargs in MODELS.items():
        images, labels = digits(SIDES.get(name, 64))
        for seed in range(told.seeds):
            torch.manual_seed(seed)
            plain = timm.create_model(name, in_chans=1, num_classes=10, **kwargs)
            upgraded = acmix.add_conv_path(plain)
            with torch.no_grad():
                apart = upgraded.eval()(images[:8]) - plain.eval()(images[:8])
            start = copy.deepcopy(upgraded.state_dict())
            losses = [train(model, images, labels, seed, told.steps) for model in (plain, upgraded)]
            new = [key for key, _ in upgraded.named_parameters() if ".conv_path." in key or ".rate_" in key]
            moved = sum(not torch.equal(upgraded.state_dict()[key], start[key]) for key in new)
            means = [sum(each[-LAST:]) / LAST for each in losses]
            difference = apart.abs().max().item()
            row = dict(
                model=name,
                seed=seed,
                steps=told.steps,
                logits_difference=f"{difference:.1e}",
                new_parameters=len(new),
                moved=moved,
                plain_loss=f"{means[0]:.4f}",
                upgraded_loss=f"{means[1]:.4f}",
            )
            wrong += difference > BOUND or moved < len(new)
            rows.append(row)
            curves[name, seed] = losses
            left = (time.monotonic() - began) / len(rows) * (len(MODELS) * told.seeds - len(rows))
            print(*row.values(), f"· about {duration(left)} left", flush=True)
    with open(results / "upgrade.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw_curves(curves, results / "upgrade.png")
    return 1 if wrong else 0


def draw_curves(curves: dict[tuple[str, int], list[list[float]]], file: Path) -> None:
    """One panel a model, one line a seed and form."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(MODELS), figsize=(12, 3.5), sharey=True)
    for (name, seed), losses in curves.items():
        panel = panels[list(MODELS).index(name)]
        for values, color, label in zip(losses, ("tab:gray", "tab:blue"), ("plain", "with paths"), strict=True):
            panel.plot(values, color=color, label=label if seed == 0 else None, linewidth=1)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step")
    panels[0].set_ylabel("training loss, digits")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
