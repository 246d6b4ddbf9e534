"""Loads `acmix serve` with real requests, mixed with bad ones, stops it in the middle, and times its batches."""

import sys
from pathlib import Path

from acmix.benchmark.service.run import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
