"""Readers are forked while no other thread is at work; else a fork may copy a lock that nobody gives back."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from acmix.data import readers
from acmix.data.readers import Loader
from acmix.data.worker import state_of, wait_for_other_threads

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells what threads do")
# asks for the interpreter over and over, as gloo does to give back a tensor: each time a thread state is made and ended
ASKING = """
#include <pthread.h>
#include <time.h>
#include <unistd.h>
extern "C" int PyGILState_Ensure();
extern "C" void PyGILState_Release(int);
static volatile bool stopped = false;
static double now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }
static void* ask(void*) {
  while (!stopped) {
    for (double until = now() + 0.02; now() < until;) PyGILState_Release(PyGILState_Ensure());
    usleep(5000);
  }
  return nullptr;
}
extern "C" void start() { pthread_t thread; pthread_create(&thread, nullptr, ask, nullptr); pthread_detach(thread); }
extern "C" void stop() { stopped = true; }
"""


def test_a_fork_waits_for_a_thread_that_works() -> None:
    long = threading.Thread(target=hashlib.sha256, args=(bytes(300_000_000),))
    long.start()
    assert not wait_for_other_threads(0.02)
    assert wait_for_other_threads(60)
    assert not long.is_alive()


def test_a_thread_that_sleeps_is_not_waited_for() -> None:
    done = threading.Event()
    sleeping = threading.Thread(target=done.wait)
    sleeping.start()
    began = time.monotonic()
    assert wait_for_other_threads(60)
    assert time.monotonic() - began < 30
    done.set()
    sleeping.join()


@pytest.mark.parametrize(("workers", "waits"), [(0, 0), (1, 1)])
def test_a_loader_waits_before_it_forks(workers: int, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(readers, "wait_for_other_threads", lambda: asked.append(time.monotonic()))
    assert len([*Loader(TensorDataset(torch.zeros(4, 1)), num_workers=workers)]) == 4
    assert len(asked) == waits


KILLED_AS_IT_FORKS = """
import os, signal, sys, time
from torch.utils.data import DataLoader
from acmix.data import worker

worker.LOOK_EVERY = 0.2
trainer = os.getpid()

def start(number):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    # the trainer is gone before torch's own watch begins
    while os.getppid() == trainer:
        time.sleep(0.01)
    worker.start_worker(number)

reading = iter(DataLoader(range(4), num_workers=1, worker_init_fn=start, multiprocessing_context="fork"))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os.kill(trainer, signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_reader_whose_trainer_was_killed_as_it_forked_is_gone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_AS_IT_FORKS, tmp_path / "reader"], check=False)
    reader = Path("/proc", (tmp_path / "reader").read_text(encoding="utf-8"))
    until = time.monotonic() + 30
    while (state := state_of(reader)) not in ("", "Z") and time.monotonic() < until:
        time.sleep(0.05)
    assert state in ("", "Z")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_readers_read_however_they_are_started(method: str, tmp_path: Path) -> None:
    code = """
import multiprocessing, sys, time
from torch.utils.data import TensorDataset
import torch
from acmix.data import worker
from acmix.data.readers import Loader

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    loader = Loader(TensorDataset(torch.arange(8)), num_workers=1, worker_init_fn=worker.start_worker)
    reading = iter(loader)
    found = [int(next(reading)[0])]
    time.sleep(1)
    print(found + [int(each[0]) for each in reading])
"""
    (tmp_path / "reads.py").write_text(code, encoding="utf-8")
    told = subprocess.run([sys.executable, tmp_path / "reads.py", method], capture_output=True, text=True, check=False)
    assert told.stdout.strip() == str([*range(8)]), told.stderr[-1500:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_no_fork_hangs_beside_a_thread_that_asks_for_the_interpreter(tmp_path: Path) -> None:
    # without the wait, about 4 % of the forks do on Python 3.11
    (tmp_path / "asking.cpp").write_text(ASKING)
    library = tmp_path / "asking.so"
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", tmp_path / "asking.cpp", "-o", library], check=True)
    code = "from tests.data.test_forks import forked; import sys; print(forked(sys.argv[1]))"
    ended = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "0", ended.stderr


def forked(library: str, times: int = 200) -> int:
    """Forks beside such a thread; how many of the new processes never began."""
    asking = ctypes.CDLL(library)
    asking.start()
    hung = 0
    for _ in range(times):
        assert wait_for_other_threads()
        process = os.fork()
        if not process:
            os._exit(0)
        until = time.monotonic() + 10
        while not os.waitpid(process, os.WNOHANG)[0]:
            if time.monotonic() > until:
                hung += 1
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                break
            time.sleep(0.001)
    asking.stop()
    return hung
