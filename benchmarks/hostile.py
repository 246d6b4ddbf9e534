"""Sends mutated configurations, images and checkpoints through every command, and counts what goes wrong."""

import sys
from pathlib import Path

from acmix.benchmark.hostile.run import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
