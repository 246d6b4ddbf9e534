"""Puts finished training runs side by side: NAME=RUN_DIR ..."""

import sys
from pathlib import Path

from acmix.benchmark.published.digits import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
