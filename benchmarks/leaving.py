"""Writes every family in every format that leaves PyTorch, and compares what reads it without acmix."""

import sys
from pathlib import Path

from acmix.benchmark.leaving import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
