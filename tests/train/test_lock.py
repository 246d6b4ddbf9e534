"""One run, one folder: a holder that lives is named, one that died is followed, on this machine and on others."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from acmix.errors import UsageError
from acmix.train import lock
from acmix.train.lock import Holder, held, myself
from acmix.train.loop import train
from tests.support.processes import Forked
from tests.support.tiny import tiny_config

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no such locks")


def hold(folder: Path, told: Path) -> None:
    """Holds a folder until it is killed."""
    with held(folder):
        told.touch()
        time.sleep(300)


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """A process that holds tmp_path / "run"."""
    (tmp_path / "run").mkdir()
    process = Forked(hold, tmp_path / "run", tmp_path / "told")
    process.wait_for((tmp_path / "told").exists)
    yield process
    process.signal(signal.SIGKILL)
    process.finish()


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as error, held(folder):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def told_by(folder: Path) -> Holder:
    return Holder(**json.loads((folder / lock.NAME).read_text()))


def test_the_holder_is_named(tmp_path: Path, other: Forked) -> None:
    holder = told_by(tmp_path / "run")
    who = f"process {holder.process} on {os.uname().nodename} (since "
    assert refused(tmp_path / "run").startswith(f"another process is training into {tmp_path / 'run'}: {who}")
    assert told_by(tmp_path / "run") == holder


def test_a_second_run_into_a_folder_changes_nothing_in_it(
    forty: Path, tmp_path: Path, other: Forked, undrawn: None
) -> None:
    unfinished = tmp_path / "run" / "checkpoints" / ".last.pt.1.tmp"
    unfinished.parent.mkdir()
    unfinished.touch()
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match="another process is training into"):
        train(tiny_config(forty), tmp_path / "run")
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_killed_holder_is_followed_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = Forked(hold, tmp_path / "run", tmp_path / "told")
    process.wait_for((tmp_path / "told").exists)
    process.signal(signal.SIGKILL)
    process.finish()
    said: list[str] = []
    began = time.monotonic()
    with held(tmp_path / "run", said.append):
        assert told_by(tmp_path / "run").process == os.getpid()
    assert said == []
    assert time.monotonic() - began < 5
    assert not (tmp_path / "run" / lock.NAME).exists()


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has none."""

    def lockf(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)


def test_without_locks_the_process_is_looked_for(
    tmp_path: Path, other: Forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    run = tmp_path / "run"
    assert f"process {told_by(run).process} on " in refused(run)
    # another process has its number since
    (run / lock.NAME).write_text(json.dumps(asdict(replace(told_by(run), started="1"))))
    with held(run):
        pass


@pytest.mark.parametrize("lives", [True, False])
def test_of_another_machine_s_holder_a_sign_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    place = tmp_path / lock.NAME
    place.write_text(json.dumps(asdict(replace(myself(), host="elsewhere", process=7))))
    said: list[str] = []
    if lives:
        beats = 0

        def sleep(seconds: float) -> None:
            nonlocal beats
            beats += 1
            if beats == 3:
                os.utime(place)

        monkeypatch.setattr(lock.time, "sleep", sleep)
        with pytest.raises(UsageError, match="process 7 on elsewhere"), held(tmp_path, said.append):
            pass
        assert len(said) == 1
        return
    with held(tmp_path, said.append):
        assert told_by(tmp_path).host == os.uname().nodename
    waiting, taken = said
    assert "was held by process 7 on elsewhere" in waiting
    assert taken.startswith("no sign of process 7 on elsewhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3}', b"\xff\xfe", b"9" * 20_000])
def test_a_file_that_says_nothing_is_no_holder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / lock.NAME).write_bytes(content)
    with held(tmp_path):
        assert told_by(tmp_path).process == os.getpid()


def test_the_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with held(tmp_path):
        os.utime(tmp_path / lock.NAME, (0, 0))
        until = time.monotonic() + 30
        while (tmp_path / lock.NAME).stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
