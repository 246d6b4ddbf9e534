"""Trains every head of detection and segmentation on a shrunken backbone of every family, on drawn scenes."""

import sys
from pathlib import Path

from acmix.benchmark.published.heads import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
