"""A file of a run is the old one or the whole new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acmix.errors import UsageError
from acmix.train.files import replaced_whole, write_atomically
from acmix.train.lock import held
from tests.support.processes import Forked


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_keeps_its_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = write_atomically(tmp_path / "file", b"old")
    with replaced_whole(file) as unfinished:
        unfinished.write_bytes(b"half")
        assert file.read_bytes() == b"old"
        unfinished.write_bytes(b"whole")
    assert file.read_bytes() == b"whole"

    def be_interrupted() -> None:
        with replaced_whole(file) as unfinished:
            unfinished.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def try_to_hold(folder: Path) -> None:
    """Prints what comes of it, in a process of its own."""
    try:
        with held(folder):
            print("held")
    except UsageError as error:
        print(error)


def die_holding(folder: Path) -> None:
    """Ends at once, as a killed process does."""
    with held(folder):
        os._exit(0)


@pytest.mark.skipif(os.name != "posix", reason="no such locks")
def test_a_folder_is_held_by_one_process_until_it_lets_go_or_dies(tmp_path: Path) -> None:
    with held(tmp_path):
        assert f"another process is training into {tmp_path}" in Forked(try_to_hold, tmp_path).finish()[0].output
    assert not list(tmp_path.iterdir())
    Forked(die_holding, tmp_path).finish()
    assert Forked(try_to_hold, tmp_path).finish()[0].output == "held\n"
