"""Kills runs at random moments, starts them again until they are done, and compares them with undisturbed ones."""

import sys
from pathlib import Path

from acmix.benchmark.survive import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
