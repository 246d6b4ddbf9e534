"""What a system without POSIX lacks is not needed to import the package, to train, or to predict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# takes away what Windows has not; what Python and PyTorch need here stays, and what the lock of a run needs
WITHOUT_POSIX = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGKILL", "SIGALRM", "pthread_sigmask", "sigtimedwait"):
    delattr(signal, name)
gone = "getuid geteuid getpgid killpg setsid fork sched_getaffinity statvfs fchmod O_NOFOLLOW O_DIRECTORY"
for name in gone.split():
    delattr(os, name)
from acmix.cli import main
for arguments in {calls}:
    sys.argv = ["acmix", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""


def without_posix(place: Path, *calls: list[str]) -> str:
    """What the commands print, one after the other in a process without kernels and, as on Windows, without locks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACMIX_CPU_KERNELS": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX.replace("{calls}", repr(calls))]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout


def test_help_and_settings_need_no_posix(tmp_path: Path) -> None:
    assert "Commands:" in without_posix(tmp_path, ["--help"], ["config", "show", "acmix_swin_digits"])


@pytest.mark.slow
def test_a_run_and_its_use_need_no_posix(tmp_path: Path) -> None:
    small = ["train.epochs=1", "data.workers=0", "model.args={depths: [1, 1], embed_dim: 24, num_heads: [1, 2]}"]
    told = without_posix(tmp_path, ["demo", "digits", *small], ["predict", "runs/digits", "data/digits/val/3"])
    assert "best.pt read back" in told
    assert (tmp_path / "runs" / "digits" / "summary.json").is_file()
