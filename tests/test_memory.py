"""Memory that tensors give back: kept by commands, handed back by reading processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from acmix import memory
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(not memory.is_glibc(), reason="only glibc's malloc is told how to hand memory out")

# page faults of a block of 120 MB that is written and freed four times, once that was done three times
FAULTS = """
import ctypes
import resource

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def faults():
    block = library.malloc(120_000_000)
    ctypes.memset(block, 1, 120_000_000)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = [faults() for _ in range(3)][-1]
print([faults() for _ in range(4)][-1] - before)
"""
# the module alone: the package would load PyTorch
KEEP = f"import sys\nsys.path.append({str(ROOT / 'acmix')!r})\nimport memory\nmemory.keep()\n"
PAGES = 4 * 120_000_000 // os.sysconf("SC_PAGESIZE")


def faults(begin: str, **environment: str) -> int:
    """What the program counts after a beginning."""
    place = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", begin + FAULTS],
        env={**place, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_command_pays_for_the_pages_of_a_large_tensor_once() -> None:
    # as a library, acmix leaves the process as it is
    assert faults("import acmix\n") > 0.5 * PAGES
    assert faults("from acmix.tools.guard import guarded\nguarded(lambda: None)\n") < 0.35 * PAGES


@pytest.mark.slow
def test_a_user_s_own_settings_of_malloc_stay() -> None:
    assert faults(KEEP, MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_TRIM_THRESHOLD_="1000000") > 0.5 * PAGES
    assert faults(KEEP, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1000000") > 0.5 * PAGES


def test_a_reading_process_gives_large_blocks_back() -> None:
    assert faults(KEEP) < 0.35 * PAGES
    assert faults(KEEP + "memory.keep_no_more()\n") > 0.5 * PAGES


def test_where_a_peak_is_measured_memory_is_given_back_and_later_kept_again() -> None:
    assert faults(f"{KEEP}with memory.given_back():\n    pass\n") < 0.35 * PAGES
    assert faults(f"{KEEP}context = memory.given_back()\ncontext.__enter__()\n") > 0.5 * PAGES


def test_where_a_peak_is_measured_a_user_s_own_settings_stay() -> None:
    own = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    assert faults(f"{KEEP}with memory.given_back():\n    pass\n", **own) < 0.35 * PAGES


def test_a_threshold_that_an_older_glibc_refuses_is_its_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Older:
        @staticmethod
        def mallopt(name: int, value: int) -> int:
            told.append((name, value))
            return int(name != memory.MMAP or value <= 2**25)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Older)
    memory.tell(memory.KEPT)
    assert dict(told) == {**memory.KEPT, memory.MMAP: 2**25}
