"""Counts parameters and multiply-adds of every model; writes the tables of README.md and docs/models.md."""

import sys
from pathlib import Path

from acmix.benchmark.published.counts import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
