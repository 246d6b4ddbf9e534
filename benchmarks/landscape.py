"""Measures ACmix-Swin-T beside ConvNeXt, Swin, CoAtNet, MaxViT and ResNet-50, all without trained weights."""

import sys
from pathlib import Path

from acmix.benchmark.published.landscape import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
