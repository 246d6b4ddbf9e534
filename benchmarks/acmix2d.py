"""Measures what ACmix2d costs beside a 3×3 convolution."""

import sys
from pathlib import Path

from acmix.benchmark.published.layer_costs import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
