"""Exports every family, a detector and a segmenter in every format, compares, and times the files."""

import sys
from pathlib import Path

from acmix.benchmark.published.exports import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
