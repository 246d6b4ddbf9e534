"""Proves and measures this library on the GPU of this machine, in one command; acmix need not be installed.

python benchmarks/gpu.py [--quick] [--only PART ...] [--results FOLDER]
python benchmarks/gpu.py --ahead [DTYPE ...] [--results FOLDER]      needs no GPU
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    # a script finds what lies in its own folder; PYTHONPATH lets this checkout's package be found, also by its parts
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "acmix.benchmark.gpu", "--results", str(ROOT / "benchmarks" / "results")]
    os.execve(sys.executable, [*command, *sys.argv[1:]], {**os.environ, "PYTHONPATH": path})
