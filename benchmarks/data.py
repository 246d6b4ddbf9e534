"""Compares reading for training with timm's loaders: speed of a core, pixels, and a run that goes on."""

import sys
from pathlib import Path

from acmix.benchmark.published.data import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
