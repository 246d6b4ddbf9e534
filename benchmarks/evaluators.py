"""Compares the evaluators of detection and segmentation with pycocotools and with a plain loop."""

import sys
from pathlib import Path

from acmix.benchmark.evaluators import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
