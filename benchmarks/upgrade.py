"""Trains timm's models with and without added convolution paths, a few steps on handwritten digits."""

import sys
from pathlib import Path

from acmix.benchmark.published.upgrades import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
