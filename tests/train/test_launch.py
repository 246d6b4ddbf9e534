"""The launcher starts real processes here; a test's worker is a few lines of Python, often without torch: quick."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread, Timer

import pytest

from acmix.train.agent import Machines
from acmix.train.launch import cores, launch, machines_from_environment, main
from acmix.train.worker_error import write_worker_error
from tests.support.paths import ROOT
from tests.support.processes import Forked, free_port

STOPPABLE = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
rank = os.environ["RANK"]
def stop(number, frame):
    if not (folder / f"asked{rank}").exists():
        (folder / f"asked{rank}").write_text(str(number))
        while not (folder / "go").exists():
            time.sleep(0.02)
        (folder / f"checkpoint{rank}").write_text("whole")
        os._exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
(folder / f"ready{rank}").write_text("")
while True:
    time.sleep(1)
"""


SECOND = {"NNODES": "2", "NODE_RANK": "1"}
STEERING = ("OMP_NUM_THREADS", "NNODES", "NODE_RANK", "RDZV_ENDPOINT", "OUTPUT", "TORCHELASTIC_ERROR_FILE")


@pytest.fixture(autouse=True)
def nothing_steers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the variables that steer a launch out of this process's environment."""
    for key in STEERING:
        monkeypatch.delenv(key, raising=False)


def launched(processes: int, *command: str) -> None:
    """What a launcher does, with an agent of torchrun's that would wait no time at all instead of its 30 seconds."""
    from torch.distributed.elastic.multiprocessing.api import PContext

    def close(self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        plain(self, death_sig, 0 if timeout == 30 else timeout)

    plain, PContext.close = PContext.close, close  # type: ignore[method-assign]
    if at := os.environ.get("READY"):
        # a moment before it waits; a second later it does
        Timer(1.0, lambda: Path(at).touch()).start()
    sys.exit(launch(processes, [sys.executable, *command], machines=machines_from_environment()))


def start(processes: int, worker: Path, *arguments: str, **changes: str) -> Forked:
    """Starts a launcher in a process group of its own."""
    environment = {**dict.fromkeys(STEERING), "PYTHONPATH": str(ROOT), **changes}
    return Forked(launched, processes, str(worker), *arguments, environment=environment)


def script(folder: Path, text: str) -> Path:
    """Writes a worker."""
    file = folder / "worker with a space and $$.py"
    file.write_text(text)
    return file


def are_there(*files: Path) -> Callable[[], bool]:
    """Whether all of these files are there."""
    return lambda: all(file.exists() for file in files)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_usage_error_of_every_process_is_one_line_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = "import sys\nfrom acmix.train.worker_error import write_worker_error\n"
    worker = script(tmp_path, f"{text}assert write_worker_error('the data folder is empty')\nsys.exit(2)\n")
    assert launch(2, [sys.executable, str(worker)]) == 2
    assert capfd.readouterr() == ("", "acmix: error: the data folder is empty\n")


@pytest.mark.slow
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
time.sleep(600)
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
@pytest.mark.slow
def test_a_process_stopped_from_outside_gives_its_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: str, status: int, said: str
) -> None:
    worker = script(tmp_path, f"import os, sys\n{end}\n")
    assert launch(1, [sys.executable, str(worker)]) == status
    errors = capfd.readouterr().err
    assert errors.startswith(said)
    assert bool(errors) == bool(said)


def test_sigterm_to_the_launcher_lets_every_process_checkpoint(tmp_path: Path) -> None:
    process = start(2, script(tmp_path, STOPPABLE), str(tmp_path))
    process.wait_for(are_there(tmp_path / "ready0", tmp_path / "ready1"))
    process.signal(signal.SIGTERM)
    process.wait_for(are_there(tmp_path / "asked0", tmp_path / "asked1"))
    (tmp_path / "go").touch()
    assert process.finish() == [(143, "", "")]
    for rank in (0, 1):
        assert (tmp_path / f"asked{rank}").read_text() == str(int(signal.SIGTERM))
        assert (tmp_path / f"checkpoint{rank}").read_text() == "whole"


@pytest.mark.slow
def test_ctrl_c_pressed_twice_in_a_terminal_lets_every_process_checkpoint(tmp_path: Path) -> None:
    process = start(2, script(tmp_path, STOPPABLE), str(tmp_path))
    process.wait_for(are_there(tmp_path / "ready0", tmp_path / "ready1"))
    process.signal(signal.SIGINT, group=True)
    process.wait_for(are_there(tmp_path / "asked0", tmp_path / "asked1"))
    process.signal(signal.SIGINT, group=True)
    (tmp_path / "go").touch()
    assert process.finish() == [(130, "", "")]
    assert all((tmp_path / f"checkpoint{rank}").exists() for rank in (0, 1))


@pytest.mark.slow
def test_two_machines_form_one_group(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(tmp_path, "import os\nprint(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n")
    endpoint = f"localhost:{free_port()}"
    other = start(1, worker, NNODES="2", NODE_RANK="1", RDZV_ENDPOINT=endpoint)
    assert launch(1, [sys.executable, str(worker)], machines=Machines(2, 0, endpoint)) == 0
    [end] = other.finish()
    assert (end.status, end.errors) == (0, "")
    # which is the first follows from their addresses
    assert sorted([capfd.readouterr().out, end.output]) == ["0 of 2\n", "1 of 2\n"]


def test_a_worker_without_a_launcher_prints_its_error_itself() -> None:
    assert not write_worker_error("nobody reads this")


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (["2", "tiny.yaml"], {}, "2 arguments; expected at least 3"),
        (["two", "tiny.yaml", "."], {}, "N, the number of processes, is 'two'"),
        (["0", "tiny.yaml", "."], {}, "N, the number of processes, is '0'"),
        (["1", "missing.yaml", "."], {}, "no configuration 'missing.yaml'"),
        (["1", "tiny.yaml", ".", "train.epoch=1"], {}, "did you mean 'train.epochs'?"),
        (["1", "tiny.yaml", "absent"], {}, "no data folder absent"),
        (["2", "tiny.yaml", ".", "train.device=cuda:1"], {}, "the device cuda:1 is a single one, and 2 processes"),
        (["1", "tiny.yaml", ".", "train.device=gpu"], {}, "train.device=gpu: expected auto, cpu, cuda, cuda:1 or mps"),
        (["1", "tiny.yaml", "."], {"NNODES": "2"}, "NODE_RANK='' with NNODES=2"),
        (["1", "tiny.yaml", "."], {"NNODES": "2", "NODE_RANK": "1"}, "RDZV_ENDPOINT='' with NNODES=2"),
        (["1", "tiny.yaml", "."], {**SECOND, "RDZV_ENDPOINT": "a:99999"}, "RDZV_ENDPOINT='a:99999' with NNODES=2"),
        # a free port of machine 0's, which the others would not know
        (["1", "tiny.yaml", "."], {**SECOND, "RDZV_ENDPOINT": "a:0"}, "a port from 1 to 65535"),
        (["100000", "tiny.yaml", ".", "train.device=cpu"], {}, "100000 processes on"),
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


@pytest.mark.slow
def test_a_launcher_that_waits_for_other_machines_ends_at_ctrl_c(tmp_path: Path) -> None:
    """It waits within PyTorch, which does not come back to Python until the time for it is over."""
    worker, port = script(tmp_path, "raise SystemExit(0)"), free_port()
    waiting = start(1, worker, NNODES="2", NODE_RANK="1", RDZV_ENDPOINT=f"localhost:{port}", READY=str(tmp_path / "at"))
    waiting.wait_for(lambda: (tmp_path / "at").exists())
    waiting.signal(signal.SIGINT)
    [end] = waiting.finish()
    assert (end.status, end.errors) == (-signal.SIGINT, "")


def test_a_launcher_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    worker, found = script(tmp_path, "raise SystemExit(3)"), []
    thread = Thread(target=lambda: found.append(launch(1, [sys.executable, str(worker)])))
    thread.start()
    thread.join()
    assert found == [3]


@pytest.mark.slow
def test_sigusr2_ends_no_process_that_does_not_listen_yet(tmp_path: Path) -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); raise SystemExit(4)"
    assert launch(1, [sys.executable, str(script(tmp_path, text))]) == 4


@pytest.mark.slow
def test_a_process_that_a_signal_without_a_name_ended_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    number = signal.SIGRTMIN + 3
    assert (
        launch(1, [sys.executable, str(script(tmp_path, f"import os; os.kill(os.getpid(), {number})"))]) == 128 + number
    )
    assert capfd.readouterr().err == f"acmix: error: process 0 was ended by signal {number}\n"
