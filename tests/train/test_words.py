"""Advice on a run's folder names what the user typed: `--output`, or run.sh's OUTPUT."""

from __future__ import annotations

import pytest

from acmix.train.resume import begin_anew
from acmix.train.words import LAUNCHER, output_option


@pytest.mark.parametrize(("launcher", "option"), [("", "--output"), ("run.sh", "OUTPUT")])
def test_the_folder_of_a_run_is_named_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, launcher: str, option: str
) -> None:
    monkeypatch.setenv(LAUNCHER, launcher)
    assert output_option() == option
    assert f"choose another {option} and add model.checkpoint=a.pt" in begin_anew("a.pt")
