"""What a user types here to say where a run writes: our launcher, run.sh, takes OUTPUT in place of --output."""

from __future__ import annotations

import os

# set by our launcher
LAUNCHER = "ACMIX_LAUNCHER"
# the number of its process
LAUNCHER_PROCESS = "ACMIX_LAUNCHER_PROCESS"


def output_option() -> str:
    """What names the folder of a run: `--output` of `acmix train`, `OUTPUT` of run.sh."""
    return "OUTPUT" if os.environ.get(LAUNCHER) else "--output"
