"""Processes that are lost: a launcher, a process among several, a reader; and one that hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from acmix.data.dataset import ImageDataset
from acmix.train import launch
from acmix.train.loop import train
from acmix.train.signals import Stopped
from acmix.train.signs import Signs
from acmix.train.worker_error import Failed
from tests.support.checks import assert_same_bits
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE, Forked, command, free_port
from tests.support.tiny import has_step, last, tiny_config, write_config
from tests.support.within import signal_within_step

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def data(forty: Path) -> Path:
    return forty


def processes_into(folder: Path) -> list[int]:
    """The processes that train into a folder, readers and launchers too."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (place / "cmdline").read_bytes() and "Z" not in (place / "stat").read_text():
                found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_processes_end_with_their_launcher_and_the_next_start_trains_alone(
    data: Path, tmp_path: Path, group: bool
) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", "", "train.epochs=400", "train.accumulation=1", "data.workers=1")
    command = [sys.executable, "-m", "acmix.train.launch", "2", str(config), str(data)]
    environment = {**os.environ, "OUTPUT": str(output), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until(has_step(output, 3))
    if group:
        # launcher and readers; torchrun gives each process a session of its own
        os.killpg(started.pid, signal.SIGKILL)
    else:
        started.kill()
    started.wait()
    wait_until(lambda: not processes_into(output))
    step = last(output)["step"]
    assert step >= 3
    with signal_within_step(step + 1, signal.SIGTERM), pytest.raises(Stopped):
        train(tiny_config(data, "train.epochs=400"), output)


@pytest.mark.slow
def test_processes_whose_launcher_was_gone_before_they_looked_end_at_once(data: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    config = write_config(tmp_path / "tiny.yaml", data)
    # the store that the processes are to meet at is gone too
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "LOCAL_RANK": "1", "RANK": "1"}
    launched: dict[str, Any] = {"TORCHELASTIC_RUN_ID": "x", "ACMIX_LAUNCHER_PROCESS": str(gone.pid), **place}
    process = command("train", config, "--output", tmp_path / "run", **launched, WORLD_SIZE="2")
    assert process.finish()[0].status in (-signal.SIGTERM, 128 + signal.SIGTERM)


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits, for a minute or two."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


KILLED_ONCE = """
import os, signal, sys
from pathlib import Path
from acmix.train.step import Step
plain = Step.take
def take(run, batches):
    flag = Path(os.environ["KILLED"])
    if run.state.step + 1 == int(os.environ["KILL_AT"]) and os.environ["RANK"] == "1" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(run, batches)
Step.take = take
import acmix.cli
sys.argv[0] = "acmix"
acmix.cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, 0])
def test_a_killed_process_is_started_again_as_often_as_asked(data: Path, tmp_path: Path, restarts: int) -> None:
    script = tmp_path / "killed_once.py"
    script.write_text(KILLED_ONCE)
    changes = ("train.accumulation=1", "train.epochs=2", "train.checkpoint_every_steps=3")
    config = write_config(tmp_path / "tiny.yaml", data, *changes)
    train_here = ["train", str(config), "--output"]
    settings = {"PYTHONPATH": str(ROOT), "KILLED": str(tmp_path / "killed"), "KILL_AT": "5"}
    if restarts:
        two = command("train", config, "--output", tmp_path / "whole", processes=2).finish()
        assert [each.status for each in two] == [0, 0]
    end = run_launched(restarts, script, [*train_here, str(tmp_path / "run")], settings)
    said = [line for line in end.errors.splitlines() if line]
    how = "acmix: process 1 was ended by SIGKILL; the machine may have run out of memory"
    if restarts:
        assert end.status == 0
        assert said == [f"{how}: starting all again, from the newest checkpoint (1 of 1)"]
        assert_same_bits(last(tmp_path / "run"), last(tmp_path / "whole"))
    else:
        assert end.status == 128 + signal.SIGKILL
        assert said == [how.replace("acmix:", "acmix: error:")]


def run_launched(restarts: int, script: Path, arguments: list[str], environment: dict[str, str]) -> Any:
    """Runs a script in two processes."""
    told = [sys.executable, str(script), *arguments]
    process = Forked(launched_with, restarts, told, environment={**environment, "OMP_NUM_THREADS": "1"})
    [end] = process.finish()
    return end


def launched_with(restarts: int, command: list[str]) -> None:
    sys.exit(launch.launch(2, command, restarts=restarts))


@pytest.mark.parametrize("where", [pytest.param("before it listens", marks=pytest.mark.slow), "within an image"])
def test_a_reader_that_hangs_ends_the_run_in_one_line_and_is_gone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As one did for ever that was forked while another thread was being made."""

    def hang(*_: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(PATIENCE)

    if where == "within an image":
        monkeypatch.setattr(ImageDataset, "pixels", hang)
    else:
        monkeypatch.setattr("acmix.data.loader.start_worker", hang)
    config = tiny_config(data, "data.workers=1", "train.timeout_minutes=0.02")
    others = {*multiprocessing.active_children()}
    with pytest.raises(Failed, match=r"no images came from the reading processes for 0\.02 minutes"):
        train(config, tmp_path / "run")
    assert not {*multiprocessing.active_children()} - others


@pytest.mark.slow
def test_a_killed_reader_ends_the_run_in_one_line(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", data, "train.epochs=4000", "data.workers=1")
    process = command("train", config, "--output", output)
    process.wait_for(has_step(output, 3))
    trainer = process.processes[0].pid
    children = Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split()
    for each in children:
        if b"resource_tracker" not in Path(f"/proc/{each}/cmdline").read_bytes():
            os.kill(int(each), signal.SIGKILL)
    [end] = process.finish()
    assert end.status == 1
    assert end.errors.startswith("acmix: error: a process that reads images ended (DataLoader worker (pid")
    assert end.errors.count("\n") == 1


STOPPED_ONCE = KILLED_ONCE.replace("signal.SIGKILL", "signal.SIGSTOP")


@pytest.mark.slow
def test_a_process_that_hangs_is_named_by_those_that_wait_for_it(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "stopped_once.py"
    script.write_text(STOPPED_ONCE)
    changes = ("train.accumulation=1", "train.timeout_minutes=0.1")
    config = write_config(tmp_path / "tiny.yaml", data, *changes)
    told = [sys.executable, str(script), "train", str(config), "--output", str(tmp_path / "run")]
    settings = {"PYTHONPATH": str(ROOT), "KILLED": str(tmp_path / "stopped"), "KILL_AT": "3", "OMP_NUM_THREADS": "1"}
    [end] = Forked(launched_with, 0, told, environment=settings).finish()
    assert end.status == 1
    [said] = [line for line in end.errors.splitlines() if line.startswith("acmix")]
    waited = "acmix: error: process 0, in step 3, waited 0.1 minutes for the others (train.timeout_minutes): process 1 "
    assert said.startswith(waited)
    assert "was last heard of" in said.removeprefix(waited)


class Silent:
    """The store of a process that hangs."""

    def check(self, keys: list[str]) -> bool:
        """Answers after the test is over."""
        time.sleep(2)
        return False


@pytest.mark.parametrize(("kept", "keeper"), [("True", "the launcher"), ("False", "process 0")])
def test_who_keeps_the_signs_and_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, kept: str, keeper: str
) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", kept)
    monkeypatch.setattr("acmix.train.signs.ANSWER", 0.05)
    said = Signs(1, 2, Silent()).of_others()
    assert said == f"{keeper}, which keeps what each process says, does not answer"


@pytest.mark.parametrize("kind", [EOFError, ConnectionResetError])
def test_a_reader_s_closed_pipe_ends_the_run_in_one_line(data: Path, tmp_path: Path, monkeypatch, kind) -> None:
    # what PyTorch does where a reader's end is seen in its pipe first
    def closed(*_: Any) -> None:
        raise kind

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", closed)
    with pytest.raises(Failed, match=r"^a process that reads images ended \(DataLoader worker \(pid unknown\)"):
        train(tiny_config(data, "data.workers=1"), tmp_path)
