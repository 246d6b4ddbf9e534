"""How the C library hands memory out: whether what a tensor gives back stays in the process.

glibc maps a block above 32 MB anew each time, and gives large ones back to the system, so that every step of a network
pays for its outputs' pages again. Commands keep them, by settings that only glibc knows; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# by the numbers of glibc's malloc.h
TRIM, TOP_PAD, MMAP = -1, -2, -3
# blocks up to 1 GiB come from the heap, which is never cut, and grows by 256 MiB
KEPT = {MMAP: 2**30, TRIM: 2**31 - 1, TOP_PAD: 2**28}
# where glibc's own rule arrives once large blocks were freed
USUAL = {MMAP: 2**25, TRIM: 2**26, TOP_PAD: 2**17}
# the least of each
NOTHING = {MMAP: 2**17, TRIM: 2**17, TOP_PAD: 2**17}

_now = USUAL


def keep() -> None:
    """Lets this process keep what its tensors give back, unless the environment tells malloc something else."""
    become(KEPT)


def keep_no_more() -> None:
    """The contrary, for a process that rarely needs its largest blocks again."""
    become(USUAL)


@contextmanager
def given_back() -> Iterator[None]:
    """Inside, memory goes back to the system as soon as it is freed, so that a peak is of what is held at once."""
    if is_set_by_user() or not is_glibc():
        yield
        return
    ctypes.CDLL(None).malloc_trim(0)
    tell(NOTHING)
    try:
        yield
    finally:
        tell(_now)


def become(settings: dict[int, int]) -> None:
    """Hands settings to malloc, unless a user's own are there."""
    global _now
    if not is_set_by_user():
        _now = settings
        tell(settings)


def is_set_by_user() -> bool:
    """Whether the environment says how memory is handed out, as glibc reads it."""
    return "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") and name.endswith("_") for name in os.environ
    )


def tell(settings: dict[int, int]) -> None:
    """Hands settings to glibc's malloc."""
    if is_glibc():
        mallopt = ctypes.CDLL(None).mallopt
        # an older glibc may take no threshold above 32 MiB; the others alone would fix it at 128 KiB
        if not mallopt(MMAP, settings[MMAP]):
            mallopt(MMAP, USUAL[MMAP])
        mallopt(TRIM, settings[TRIM])
        mallopt(TOP_PAD, settings[TOP_PAD])


def is_glibc() -> bool:
    """Whether the C library is GNU's."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
