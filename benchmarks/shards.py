"""Compares reading from shards with reading from a folder."""

import sys
from pathlib import Path

from acmix.benchmark.shards import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
