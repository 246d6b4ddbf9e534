"""How a process that a launcher started says what is wrong with the input: once, through the launcher."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from acmix.train.files import write_atomically


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
