"""Puts runs through damaged files, killed processes, a full disk and folders of others."""

import sys
from pathlib import Path

from acmix.benchmark.faults.command import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
