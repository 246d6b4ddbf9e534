"""Counts parameters and multiply-adds of detectors and segmenters, plain and with paths."""

import sys
from pathlib import Path

from acmix.benchmark.published.downstream import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
