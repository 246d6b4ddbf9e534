"""Compares the model of scale with two gloo processes on this machine, and writes the table to 512 cards."""

import sys
from pathlib import Path

from acmix.benchmark.scale.check import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
