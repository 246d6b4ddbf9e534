"""A few of the hostile files of `benchmarks/hostile.py`, each refused in one line or taken; and what counts them."""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acmix.benchmark.hostile import checkpoints, child, configurations, images
from acmix.benchmark.hostile.archives import Sound
from acmix.benchmark.hostile.cases import tree_of
from acmix.benchmark.hostile.child import forked
from acmix.benchmark.hostile.run import kind_and_number, numbers
from acmix.config import Config
from acmix.data.image import read_image
from acmix.errors import LONGEST, UsageError
from acmix.released import load_config
from acmix.released.safe_load import safe_load
from acmix.tasks import task_of
from acmix.tools.convert import convert
from acmix.train.checkpoint import restore_model, save

ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("cases", "refused", "accepted", "tracebacks", "hangs", "requests", "executed")

# of quantised and nested tensors, which torch is about to drop or to change
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(sys.platform != "linux", reason="the trial is for Linux"),
]


def taken_or_refused(call: Callable[[], Any], what: str) -> bool:
    """Whether something is taken; anything else than one short line fails."""
    began, said = time.process_time(), ""
    try:
        call()
    except UsageError as error:
        said = str(error)
    assert "\n" not in said, what
    assert len(said) <= LONGEST, what
    assert time.process_time() - began < 10, what
    return not said


def test_mutated_configurations_are_refused_in_one_line_or_taken(tmp_path: Path) -> None:
    taken = 0
    for number in range(40):
        mutant = configurations.mutated(tree_of("classify"), random.Random(number))
        if len(mutant.text) > 100_000:
            # they take seconds
            continue
        file = tmp_path / f"{number}.yaml"
        file.write_bytes(mutant.text)
        taken += taken_or_refused(lambda m=mutant, f=file: load_config(f, list(m.overrides)), mutant.what)
    assert 5 < taken < 35


@pytest.mark.slow
def test_mutated_images_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    read = 0
    for number in range(60):
        picture = images.mutated(number, random.Random(number))
        if picture.what.startswith(("bomb", "PNG of 12000")):
            # they take seconds
            continue
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), picture.name)))
        path.write_bytes(picture.content)
        read += taken_or_refused(lambda p=path: read_image(p), picture.what)
    assert 15 < read < 55


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    config = Config.model_validate(tree_of("classify"))
    model = task_of(config).build()
    content = {
        "config": config.model_dump(mode="json"),
        "classes": [*"abcdefghij"],
        "model": model.state_dict(),
        "average": None,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "metrics": {"top1": 50.0},
        "step": 1,
        "epoch": 1,
    }
    save(folder / "last.pt", content)
    convert(folder / "last.pt", folder / "x.safetensors")
    whole = (folder / "last.pt").read_bytes()
    return Sound(safe_load(folder / "last.pt"), whole, (folder / "x.safetensors").read_bytes(), folder / "canary")


@pytest.mark.slow
def test_mutated_checkpoints_are_refused_in_one_line_or_taken_and_execute_nothing(sound: Sound, tmp_path: Path) -> None:
    taken = 0
    for number in range(60):
        mutant = checkpoints.mutated(sound, random.Random(number))
        if any(word in mutant.what for word in ("400 MB", "1000000", "spaces")):
            continue
        file = tmp_path / f"{number}{mutant.suffix}"
        file.write_bytes(mutant.content)
        taken += taken_or_refused(lambda f=file: restore_model(f), mutant.what)
        file.unlink()
    assert 5 < taken < 50
    assert not sound.canary.exists()


def raises() -> None:
    raise KeyError("x")


def refuses() -> None:
    print("acmix: error: no", file=sys.stderr)
    sys.exit(2)


def asks() -> None:
    socket.create_connection(("127.0.0.1", 9))


def executes() -> None:
    subprocess.run(["true"], check=True)


def forks() -> None:
    for _ in range(5):
        if os.fork() == 0:
            os._exit(0)


def waits() -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("call", "outcome", "requests", "executed"),
    [
        (lambda: Image.new("1", (1, 1)), "accepted", 0, 0),
        (raises, "traceback", 0, 0),
        (refuses, "refused", 0, 0),
        (asks, "traceback", 1, 0),
        (executes, "traceback", 0, 1),
        (forks, "traceback", 0, 0),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "traceback", 0, 0),
        (lambda: sys.exit(2), "traceback", 0, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_outcome_is_told_from_the_others(
    call: Any, outcome: str, requests: int, executed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MOST_FORKS", 3)
    result = forked(call, tmp_path, longest=5)
    assert (result.outcome, result.requests, result.executed) == (outcome, requests, executed), result


def test_what_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    result = forked(waits, tmp_path, longest=0.1)
    assert (result.outcome, result.status) == ("hang", -9)
    assert result.seconds < 5


def test_code_that_ran_is_seen_by_what_it_wrote(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    result = forked(lambda: canary.write_text("x"), tmp_path / "said", canary=canary)
    assert (result.executed, canary.exists()) == (1, False)


def test_mutants_that_ran_elsewhere_are_left_out() -> None:
    assert list(numbers("checkpoints", 5, 3)) == [3, 4]
    # images come in groups of eight
    assert list(numbers("images", 1000, 960)) == [960, 968, 976, 984, 992]
    assert kind_and_number("images=960") == ("images", 960)
    with pytest.raises(argparse.ArgumentTypeError, match="expected KIND=N"):
        kind_and_number("pictures=3")


def test_the_page_of_bounds_tells_what_was_measured() -> None:
    with (ROOT / "benchmarks" / "results" / "hostile.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["command"] != "as typed"]
    page = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
    for kind in ("configurations", "images", "checkpoints"):
        of_it = [row for row in rows if row["kind"] == kind]
        sums = [sum(int(row[name]) for row in of_it) for name in COUNTED]
        most = max(int(row["most_mib"]) for row in of_it)
        cells = [kind, *(f"{each:,}" for each in sums), f"{most:,}"]
        assert f"| {' | '.join(cells)} |" in page
