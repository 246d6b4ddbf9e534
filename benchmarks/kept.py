"""Measures what it brings that a process keeps the memory of its tensors."""

import sys
from pathlib import Path

from acmix.benchmark.kept import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
