"""`python -m acmix.benchmark WHAT [options]`: measures what the repository publishes, in the checkout one stands in.

To measure models and operators of one's own choice: `acmix benchmark --help`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from acmix.errors import UsageError
from acmix.tools.guard import guarded

# what is typed, where it lives, what it does
SCRIPTS = {
    "speed": ("published.speed", "models, layers and operators beside their peers; --tables rewrites the documents"),
    "families": ("published.families", "every model beside its form without the convolution path"),
    "models": ("published.counts", "parameters and multiply-adds of every model, beside the paper's"),
    "downstream": ("published.downstream", "parameters and multiply-adds of detectors and segmenters"),
    "detection": ("detection_step", "a training step of Mask R-CNN beside its plain form and torchvision's; memory"),
    "heads": ("published.heads", "every head of detection and segmentation trained on every family"),
    "landscape": ("published.landscape", "ACmix-Swin-T beside ConvNeXt, Swin, CoAtNet, MaxViT and ResNet-50"),
    "acmix2d": ("published.layer_costs", "memory and multiply-adds of the layer ACmix2d beside a 3x3 convolution"),
    "upgrade": ("published.upgrades", "timm's models trained with and without added convolution paths"),
    "digits": ("published.digits", "finished training runs side by side"),
    "leaving": ("leaving", "every family in every format that leaves PyTorch, read where acmix is not"),
    "evaluators": ("evaluators", "AP beside pycocotools and mIoU beside a plain loop: differences and seconds"),
    "hostile": ("hostile.run", "mutated configurations, images and checkpoints through every command"),
    "survive": ("survive", "runs killed at random moments and started again, beside undisturbed ones"),
    "faults": ("faults.command", "damaged checkpoints, killed ranks and launchers, a full disk, folders of others"),
    "data": ("published.data", "reading for training beside timm's loaders: a core's speed, pixels, a resumed epoch"),
    "scale": ("scale.check", "the model of scale beside two gloo processes, and its table to 512 cards"),
    "gpu": ("gpu", "everything on this machine's GPU: right first, then how fast"),
}


def usage() -> str:
    """What can be measured, a line each."""
    names = [f"  {name:<10} {what}" for name, (_, what) in SCRIPTS.items()]
    return "\n".join(
        [
            "usage: python -m acmix.benchmark WHAT [options]      from the root of a checkout",
            "",
            "Measures what README.md and docs/ publish, into benchmarks/results/. WHAT is one of",
            *names,
            "",
            "`python -m acmix.benchmark WHAT --help` lists the options of one.",
            "For models and operators of your choice: `acmix benchmark train|infer|ops|data --help`.",
        ]
    )


def run(name: str, root: Path) -> int:
    """Runs one of `SCRIPTS`; it reads the rest of the command line.

    Args:
        name: what is measured.
        root: of the repository.

    Returns:
        The exit status.
    """
    return import_module(f"acmix.benchmark.{SCRIPTS[name][0]}").main(root)


def main() -> int:
    """Reads what is asked for."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage())
        return 0
    name = sys.argv.pop(1)
    if name not in SCRIPTS:
        raise UsageError(f"nothing to measure is called {name!r}; there are {', '.join(SCRIPTS)}")
    root = Path.cwd()
    if not (root / "benchmarks" / "results").is_dir():
        raise UsageError(f"{root} has no benchmarks/results/; run this from the root of a checkout")
    sys.argv[0] = f"python -m acmix.benchmark {name}"
    return run(name, root)


if __name__ == "__main__":
    guarded(lambda: sys.exit(main()))
