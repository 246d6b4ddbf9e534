"""Runs that read shards resume to the bit, from a folder and from a server, and measure what a folder's images give."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from acmix.errors import UsageError
from acmix.train.loop import train
from acmix.train.signals import Stopped
from tests.support.checks import assert_same_bits
from tests.support.processes import command
from tests.support.shards import served, write_shards
from tests.support.tiny import last, tiny_config, write_config
from tests.support.within import signal_within_step

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def shards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(data, tmp_path_factory.mktemp("shards"), samples=3)


@pytest.mark.slow
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(shards, "train.accumulation=1")
    train(config, tmp_path / "whole")

    with signal_within_step(6, signal.SIGTERM), pytest.raises(Stopped):
        train(config, tmp_path / "parts")
    assert last(tmp_path / "parts")["step"] == 6
    with pytest.raises(UsageError, match=r"data\.shuffle_shards"):
        train(tiny_config(shards, "train.accumulation=1", "data.shuffle_shards=2"), tmp_path / "parts")
    train(config, tmp_path / "parts")
    assert_same_bits(last(tmp_path / "parts"), last(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_killed_in_an_epoch_go_on_to_the_same_bits_from_a_server(
    shards: Path, data: Path, tmp_path: Path
) -> None:
    changes = ("train.accumulation=1", "train.checkpoint_every_steps=1", "data.workers=1", "data.shuffle_shards=1")
    environment: Any = {"ACMIX_CACHE": str(tmp_path / "cache")}
    requests: list[str] = []
    with served(shards, lambda request: requests.append(request.path)) as url:
        file = write_config(tmp_path / "run.yaml", url, *changes)
        ends = command("train", file, "--output", tmp_path / "whole", processes=2, **environment).finish()
        assert [end.status for end in ends] == [0, 0], ends
        tars = [path for path in requests if path.endswith(".tar")]
        assert len(tars) == len(set(tars)) == 10
        parts = tmp_path / "parts"
        processes = command("train", file, "--output", parts, processes=2, **environment)
        saved = parts / "checkpoints" / "last.pt"
        processes.wait_for(lambda: saved.is_file() and last(parts)["step"] >= 1)
        processes.signal(signal.SIGKILL)
        processes.finish()
        ends = command("train", file, "--output", parts, processes=2, **environment).finish()
        assert [end.status for end in ends] == [0, 0], ends
        assert_same_bits(last(parts), last(tmp_path / "whole"))
        assert len([path for path in requests if path.endswith(".tar")]) == 10
        found = []
        for place in (data, shards, url):
            [end] = command("evaluate", parts, "--data", place, "--workers", "0", "--json", **environment).finish()
            assert end.status == 0, end.errors
            found.append(json.loads(end.output))
    assert found[0]["top1"] == found[1]["top1"] == found[2]["top1"]
    assert found[0]["images"] == found[2]["images"] == 12
