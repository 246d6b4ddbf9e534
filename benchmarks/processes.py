"""Compares what several processes train with what one does at the same global batch."""

import sys
from pathlib import Path

from acmix.benchmark.processes import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
