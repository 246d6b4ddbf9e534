"""What 8 bits cost a trained classifier, group of nodes by group: NAME RUN_DIR DATA_DIR ..."""

import sys
from pathlib import Path

from acmix.benchmark.published.int8 import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
