"""Measures every ACmix model beside its form without the convolution path; `--table` puts the table on its page."""

import sys
from pathlib import Path

from acmix.benchmark.published.families import main
from acmix.tools.guard import guarded

if __name__ == "__main__":
    guarded(lambda: sys.exit(main(Path(__file__).resolve().parent.parent)))
