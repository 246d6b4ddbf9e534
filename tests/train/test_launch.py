"""The launcher starts real processes here; a test's worker is a few lines of Python, often without torch: quick."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acmix.train.agent import Machines
from acmix.train.launch import cores, launch, main, write_worker_error
from tests.support.paths import ROOT

LAUNCH = """
import sys
from acmix.train.launch import launch, machines_from_environment
sys.exit(launch(int(sys.argv[1]), [sys.executable, *sys.argv[2:]], machines=machines_from_environment()))
"""
STOPPABLE = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
rank = os.environ["RANK"]
def stop(number, frame):
    if not (folder / f"asked{rank}").exists():
        (folder / f"asked{rank}").write_text(str(number))
        time.sleep(float(sys.argv[2]))
        (folder / f"checkpoint{rank}").write_text("whole")
        os._exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
(folder / f"ready{rank}").write_text("")
time.sleep(60)
"""


STEERING = ("OMP_NUM_THREADS", "NNODES", "NODE_RANK", "RDZV_ENDPOINT", "OUTPUT", "TORCHELASTIC_ERROR_FILE")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, in which our package is found, with changes."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


@pytest.fixture(autouse=True)
def nothing_steers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the variables that steer a launch out of this process's environment."""
    for key in STEERING:
        monkeypatch.delenv(key, raising=False)


def start(processes: int, worker: Path, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    """Starts a launcher in a process group of its own."""
    command = [sys.executable, "-c", LAUNCH, str(processes), str(worker), *arguments]
    settings = environment(**changes)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=settings, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def script(folder: Path, text: str) -> Path:
    """Writes a worker."""
    file = folder / "worker with a space and $$.py"
    file.write_text(text)
    return file


def wait_for(*files: Path) -> None:
    """Waits until all files are there."""
    deadline = time.monotonic() + 40
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"none of these came: {[file.name for file in files]}"
        time.sleep(0.05)


def test_processes_find_each_other_and_share_the_cores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(
        tmp_path,
        """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(f"{dist.get_rank()} of {int(total)}, threads {os.environ['OMP_NUM_THREADS']}\\n", end="", flush=True)
dist.destroy_process_group()
""",
    )
    status = launch(2, [sys.executable, str(worker)])
    output, errors = capfd.readouterr()
    threads = max(1, cores() // 2)
    assert (status, errors) == (0, "")
    assert sorted(output.splitlines()) == [f"0 of 2, threads {threads}", f"1 of 2, threads {threads}"]
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_usage_error_of_every_process_is_one_line_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = "import sys\nfrom acmix.train.launch import write_worker_error\n"
    worker = script(tmp_path, f"{text}assert write_worker_error('the data folder is empty')\nsys.exit(2)\n")
    assert launch(2, [sys.executable, str(worker)]) == 2
    assert capfd.readouterr() == ("", "acmix: error: the data folder is empty\n")


def test_a_failing_process_gives_its_status_its_own_traceback_and_nothing_of_torchrun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = script(
        tmp_path,
        """
import os, sys, time
if os.environ["RANK"] == "1":
    print("my own traceback", file=sys.stderr)
    sys.exit(3)
time.sleep(60)
""",
    )
    assert launch(2, [sys.executable, str(worker)]) == 3
    assert capfd.readouterr() == ("", "my own traceback\n")


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os.kill(os.getpid(), 9)", 137, "acmix: error: process 0 was ended by SIGKILL; the machine may have run out"),
        ("sys.exit(143)", 143, ""),
        ("sys.exit(130)", 130, ""),
    ],
)
def test_a_process_stopped_from_outside_gives_its_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: str, status: int, said: str
) -> None:
    worker = script(tmp_path, f"import os, sys\n{end}\n")
    assert launch(1, [sys.executable, str(worker)]) == status
    errors = capfd.readouterr().err
    assert errors.startswith(said)
    assert bool(errors) == bool(said)


def test_sigterm_to_the_launcher_lets_every_process_checkpoint(tmp_path: Path) -> None:
    process = start(2, script(tmp_path, STOPPABLE), str(tmp_path), "3")
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    for rank in (0, 1):
        assert (tmp_path / f"asked{rank}").read_text() == str(int(signal.SIGTERM))
        assert (tmp_path / f"checkpoint{rank}").read_text() == "whole"


def test_ctrl_c_pressed_twice_in_a_terminal_lets_every_process_checkpoint(tmp_path: Path) -> None:
    process = start(2, script(tmp_path, STOPPABLE), str(tmp_path), "2")
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    os.killpg(process.pid, signal.SIGINT)
    wait_for(tmp_path / "asked0", tmp_path / "asked1")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert all((tmp_path / f"checkpoint{rank}").exists() for rank in (0, 1))


def test_two_machines_form_one_group(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(tmp_path, "import os\nprint(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    other = start(1, worker, NNODES="2", NODE_RANK="1", RDZV_ENDPOINT=endpoint)
    assert launch(1, [sys.executable, str(worker)], machines=Machines(2, 0, endpoint)) == 0
    assert capfd.readouterr().out == "0 of 2\n"
    assert other.communicate(timeout=60) == ("1 of 2\n", "")
    assert other.returncode == 0


def test_a_worker_without_a_launcher_prints_its_error_itself() -> None:
    assert not write_worker_error("nobody reads this")


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (["2", "tiny.yaml"], {}, "2 arguments where at least 3 were expected"),
        (["two", "tiny.yaml", "."], {}, "N, the number of processes, is 'two'"),
        (["0", "tiny.yaml", "."], {}, "N, the number of processes, is '0'"),
        (["1", "missing.yaml", "."], {}, "no configuration 'missing.yaml'"),
        (["1", "tiny.yaml", ".", "train.epoch=1"], {}, "did you mean 'train.epochs'?"),
        (["1", "tiny.yaml", "absent"], {}, "no data folder absent"),
        (["1", "tiny.yaml", "."], {"NNODES": "2"}, "NODE_RANK='' with NNODES=2"),
        (["1", "tiny.yaml", "."], {"NNODES": "2", "NODE_RANK": "1"}, "RDZV_ENDPOINT='' with NNODES=2"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    changes: dict[str, str],
    said: str,
) -> None:
    (tmp_path / "tiny.yaml").write_text("train: {epochs: 1}\n")
    monkeypatch.chdir(tmp_path)
    for key, value in changes.items():
        monkeypatch.setenv(key, value)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("acmix: error: ")
    assert said in error
    assert error.count("\n") == 1
