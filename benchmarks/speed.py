"""Measures this library's speed beside its peers; `--help` lists the lines, `--tables` writes the documents' tables."""

import sys
from pathlib import Path

from acmix.benchmark.published.speed import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
