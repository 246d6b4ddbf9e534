"""Several machines: each a network of its own on this one, where the system lets us make them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acmix.released.digest import digest_of
from acmix.train.agent import Machines, address_towards, interface_of
from acmix.train.launch import launch
from tests.support.checks import one_error
from tests.support.images import make_image_folder
from tests.support.processes import PATIENCE, command, free_port
from tests.support.tiny import CLASSES, last, write_config

ROOT = Path(__file__).parents[2]
BRIDGE, NAMES = "acmixbr", ("acmix0", "acmix1")


def ip(*words: str) -> None:
    """Runs `ip`, which manages networks."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def remove() -> None:
    """Removes the networks, and what runs in them."""
    for name in NAMES:
        for process in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
            os.kill(int(process), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


@pytest.fixture
def two_machines() -> Iterator[None]:
    """Two networks, 10.77.0.10 and 10.77.0.11, joined by a bridge."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("networks of one's own need `ip` and its rights")
    remove()
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(NAMES):
            ip("netns", "add", name)
            ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}v", "master", BRIDGE, "up")
            ip("-n", name, "addr", "add", f"10.77.0.1{number}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                ip("-n", name, "link", "set", interface, "up")
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(f"no networks of one's own here: {error.stderr.strip()}")
    yield
    remove()


def start(number: int, config: Path, data: Path, output: Path, *settings: str) -> subprocess.Popen[str]:
    """The launcher of a machine, for one process."""
    place = dict(NNODES="2", NODE_RANK=str(number), RDZV_ENDPOINT="10.77.0.10:29511", OUTPUT=str(output))
    environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "acmix.train.launch", "1", str(config), str(data), *settings]
    inside = ["ip", "netns", "exec", NAMES[number]]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return subprocess.Popen([*inside, *launcher], env=environment, text=True, **pipes)  # type: ignore[call-overload]


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Waits until a condition holds, while processes run."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def says(file: Path, text: str) -> bool:
    """Whether a file is there and holds a text."""
    return file.is_file() and text in file.read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path]:
    """A configuration of many short epochs, and its images."""
    data = make_image_folder(tmp_path / "images", CLASSES, train_per_class=8, val_per_class=1, size=40)
    settings = ("train.accumulation=1", "train.epochs=8", "train.restarts=3", "train.timeout_minutes=2")
    return write_config(tmp_path / "tiny.yaml", data, *settings), data


@pytest.mark.slow
@pytest.mark.usefixtures("two_machines")
def test_a_machine_that_is_dropped_and_comes_back_changes_no_bit(tmp_path: Path, run: tuple[Path, Path]) -> None:
    whole, output = tmp_path / "whole", tmp_path / "run"
    # two processes of one machine, which nothing happens to
    ends = command("train", run[0], "--output", whole, processes=2).finish()
    assert [end.status for end in ends] == [0, 0], ends

    zero, one = (start(number, *run, output) for number in (0, 1))
    wait_for(lambda: says(output / "log.jsonl", '"epoch": 2'), zero, one)
    # the cable first, so that machine 0 hears nothing of the end of its processes
    ip("-n", NAMES[1], "link", "set", "eth0", "down")
    for process in subprocess.run(["ip", "netns", "pids", NAMES[1]], capture_output=True, text=True).stdout.split():
        os.kill(int(process), signal.SIGKILL)
    one.communicate(timeout=PATIENCE)
    ip("-n", NAMES[1], "link", "set", "eth0", "up")
    back = start(1, *run, output)
    said = [each.communicate(timeout=PATIENCE)[0] for each in (zero, back)]
    assert [zero.returncode, back.returncode] == [0, 0], said
    resumed = [line for text in said for line in text.splitlines() if "resuming after step" in line]
    assert len(resumed) == 1, said
    ours, theirs = last(output), last(whole)
    for key in ("model", "average", "optimizer", "best"):
        assert digest_of(ours[key]) == digest_of(theirs[key]), key


@pytest.mark.slow
@pytest.mark.usefixtures("two_machines")
def test_a_signal_to_one_machine_stops_both_and_starts_neither_again(tmp_path: Path, run: tuple[Path, Path]) -> None:
    both = [start(number, *run, tmp_path / "run", "train.epochs=500") for number in (0, 1)]
    wait_for(lambda: says(tmp_path / "run" / "log.jsonl", '"epoch": 2'), *both)
    both[1].send_signal(signal.SIGTERM)
    said = [each.communicate(timeout=PATIENCE)[0] for each in both]
    assert both[1].returncode == 128 + signal.SIGTERM, said
    assert both[0].returncode == 128 + signal.SIGTERM, said
    assert not any("starting all again" in text for text in said)
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()


def test_a_taken_port_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert launch(1, [sys.executable, "-c", "pass"], machines=Machines(2, 0, f"127.0.0.1:{port}")) == 2
    one_error(capfd.readouterr().err, f"port {port} of machine 0 is taken, maybe by another run")


def test_the_interface_towards_machine_0_is_found() -> None:
    assert address_towards(f"127.0.0.1:{free_port()}") == "127.0.0.1"
    assert address_towards("no.such.host.invalid:1") is None
    if sys.platform == "linux":
        assert interface_of("127.0.0.1") == "lo"
        assert interface_of("203.0.113.1") == ""
