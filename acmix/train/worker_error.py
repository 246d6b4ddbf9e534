"""How a process that a launcher started says what is wrong with the input: once, through the launcher."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from acmix.train.files import write_atomically

# set where torchrun, or our launcher, started this process
BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
# the exit status of a process that lost another one, which has a status of its own
LOST_OTHERS = 75


class Failed(Exception):
    """A run ended for no fault of its input: in one line; started again it may go on."""

    exit_code = 1


class LostOthers(Failed):
    """Another process of the run is gone; why, its launcher or its own output says."""

    exit_code = LOST_OTHERS


def is_launched() -> bool:
    """Whether a launcher started this process, and tells how its processes end."""
    return BY_TORCHRUN in os.environ


def write_worker_error(message: str) -> bool:
    """Hands a usage error to the launcher, which prints it once for all processes.

    Args:
        message: one line.

    Returns:
        Whether there is a launcher to print it; where there is none the caller prints it.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return False
    # the layout that torchrun's agent reads; it takes whole seconds only
    note = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
    write_atomically(Path(file), json.dumps(note).encode())
    return True
