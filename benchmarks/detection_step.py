"""Measures a training step of Mask R-CNN with ACmix-Swin-T beside its plain form and torchvision's Mask R-CNN."""

import sys
from pathlib import Path

from acmix.benchmark.detection_step import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
