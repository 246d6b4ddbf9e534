"""Tests the paper's claims and writes the tables of docs/reproduction.md; `--help` lists the parts."""

import sys
from pathlib import Path

from acmix.paper.reproduction import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
