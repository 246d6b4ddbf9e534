"""Completion as each shell asks for it, by the script that `acmix --install-completion` writes there."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import acmix
from acmix.cli import complete
from tests.support.paths import ROOT

LINE = "acmix paper ablation fashion_pl"
OFFERED = "fashion_placement"
# a completion of bash as its library calls it: the words, the one that is being typed, and what came of it
BASH = """
source "$HOME/.bash_completions/acmix.sh"
COMP_WORDS=({line}) COMP_CWORD={place}
"$(complete -p acmix | sed 's/.*-F \\([^ ]*\\).*/\\1/')" acmix
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, with `acmix` on the PATH."""
    script = tmp_path / "bin" / "acmix"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m acmix "$@"\n')
    script.chmod(0o755)
    for name, value in (
        ("HOME", tmp_path),
        ("ZDOTDIR", tmp_path),
        ("XDG_CONFIG_HOME", tmp_path / ".config"),
        ("PYTHONPATH", ROOT),
        ("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}"),
    ):
        monkeypatch.setenv(name, str(value))
    return tmp_path


def test_the_names_offered_are_those_that_there_are() -> None:
    assert complete.models("") == sorted(acmix.list_models())
    assert complete.models("acmix_san1") == ["acmix_san10", "acmix_san15", "acmix_san19"]
    assert complete.grids("digits") == ["digits_paths"]
    assert complete.demos("d") == ["digits", "detect"]


def run(shell: str, code: str) -> str:
    """What a shell prints; the status of the last command counts."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    return subprocess.run([shell, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_bash_completes(home: Path) -> None:
    # the shell is the parent of the command, which has to be no last one
    assert "bash completion installed" in run("bash", "acmix --install-completion; true")
    assert ".bash_completions/acmix.sh" in (home / ".bashrc").read_text()
    assert run("bash", BASH.format(line=LINE, place=3)).split() == [OFFERED]


@pytest.mark.slow
def test_fish_completes(home: Path) -> None:
    assert "fish completion installed" in run("fish", "acmix --install-completion; true")
    assert run("fish", f"complete --do-complete '{LINE}'").split() == [OFFERED]


@pytest.mark.slow
def test_zsh_completes(home: Path) -> None:
    assert "zsh completion installed" in run("zsh", "acmix --install-completion; true")
    pty = pytest.importorskip("pty")
    ours, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "PS1": "ready> "}
    # as its user starts it: its line editor needs a terminal
    with subprocess.Popen(
        ["zsh", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    ) as shell:
        os.close(terminal)
        try:
            assert "ready> " in told(ours, "ready> ")
            # the first one in a session loads the script
            os.write(ours, f"{LINE}\t".encode())
            assert "\a" in told(ours, "\a")
            os.write(ours, b"\t")
            assert told(ours, "acement").startswith("acement")
        finally:
            shell.kill()
            os.close(ours)


def told(terminal: int, until: str, seconds: float = 60.0) -> str:
    """What a terminal shows until it shows that."""
    shown, end = "", time.monotonic() + seconds
    while until not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown
