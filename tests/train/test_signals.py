"""A run that was stopped, at whatever moment, ends with the same bits as one that was not."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from acmix.data import Batch
from acmix.tasks import classify
from acmix.train import checkpoint, launch
from acmix.train.loop import Run, train
from acmix.train.plots import read_log
from acmix.train.signals import Stopped
from tests.support.checks import assert_same_bits
from tests.support.paths import ROOT
from tests.support.processes import Forked, command, python, run_module
from tests.support.tiny import has_step, last, tiny_config, write_config
from tests.support.within import signal_within_step

pytestmark = pytest.mark.usefixtures("undrawn")
# 40 training images, 8 a step
STEPS_PER_EPOCH = 5


@pytest.fixture
def data(forty: Path) -> Path:
    return forty


@contextmanager
def handled(number: int, how: signal.Handlers) -> Iterator[None]:
    """Has this process take a signal so in the block."""
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def signal_within_evaluation(number: int) -> Iterator[list[Batch]]:
    """Sends this very process a signal with the first validation batch; gives the batches that were evaluated."""

    def evaluating(*arguments: object, on_batch: Callable[[Batch], None], **named: object) -> object:
        def on_each(batch: Batch) -> None:
            if not seen:
                os.kill(os.getpid(), number)
            seen.append(batch)
            on_batch(batch)

        return plain(*arguments, on_batch=on_each, **named)  # type: ignore[arg-type]

    plain, seen = classify.evaluate, list[Batch]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "evaluate", evaluating)
        yield seen


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(
    data: Path, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    # tests may run under nohup
    with handled(number, signal.SIG_DFL), signal_within_step(3, number), pytest.raises(Stopped) as stopped:
        train(tiny_config(data), tmp_path)
    assert stopped.value.exit_code == code
    # the step is finished, and no other is begun
    assert last(tmp_path)["step"] == 3
    train(tiny_config(data), tmp_path)
    assert_same_bits(last(tmp_path), last(whole))
    # an epoch's mean loss covers the steps from before the stop too
    ours, theirs = (read_log(folder).epochs for folder in (tmp_path, whole))
    assert [record["train_loss"] for record in ours] == [record["train_loss"] for record in theirs]
    assert [record["top1"] for record in ours] == [record["top1"] for record in theirs]


def test_a_run_stopped_while_it_evaluates_does_not_wait_and_evaluates_again(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    settings = tiny_config(data)
    with signal_within_evaluation(signal.SIGTERM) as seen, pytest.raises(Stopped):
        train(settings, tmp_path)
    # of three
    assert len(seen) == 1
    assert (last(tmp_path)["step"], last(tmp_path)["epochs_ended"]) == (STEPS_PER_EPOCH, 0)
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    train(settings, tmp_path)
    assert_same_bits(last(tmp_path), last(whole))
    ours, theirs = (read_log(folder).epochs for folder in (tmp_path, whole))
    assert [record["top1"] for record in ours] == [record["top1"] for record in theirs]


def stand_still(step: int, arguments: list[str]) -> None:
    """`python -m acmix`, which computes a step, counted from 1, no sooner than a signal to stop has come."""

    def take_step(run: Run, batches: list[Batch]) -> float:
        while run.state.step + 1 == step and not run.stop.signal:
            time.sleep(0.01)
        return plain(run, batches)

    plain, Run.take_step = Run.take_step, take_step  # type: ignore[method-assign]
    run_module("acmix", arguments)


@pytest.mark.slow
def test_one_command_is_killed_then_stopped_and_ends_with_the_same_bits(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml")
    told = [*map(str, ("train", config, "--data", data, "--output", output, "data.workers=1"))]
    process = Forked(stand_still, STEPS_PER_EPOCH + 2, told)
    process.wait_for(has_step(output, STEPS_PER_EPOCH + 1))
    process.signal(signal.SIGKILL)
    assert [end.status for end in process.finish()] == [-signal.SIGKILL]
    assert last(output)["step"] == STEPS_PER_EPOCH
    # as a kill amid writing leaves it
    unfinished = output / "checkpoints" / ".last.pt.123.tmp"
    unfinished.write_bytes(b"PK half a checkpoint")

    (output / "log.jsonl").unlink()
    process = Forked(stand_still, STEPS_PER_EPOCH + 3, told)
    process.wait_for(has_step(output, STEPS_PER_EPOCH + 2))
    # a terminal sends Ctrl-C to the reading process too
    process.signal(signal.SIGINT, group=True)
    [end] = process.finish()
    assert (end.status, end.errors, end.output.count("stopped after step")) == (130, "", 1)
    assert "run the same command again to go on" in end.output
    assert last(output)["step"] == STEPS_PER_EPOCH + 3

    train(tiny_config(data), output)
    assert_same_bits(last(output), last(whole))
    assert sorted(path.name for path in unfinished.parent.iterdir()) == ["best.pt", "last-1.pt", "last.pt"]


def test_a_signal_to_the_whole_group_leaves_the_reading_processes_to_the_last_step(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml", data, "train.epochs=400", "data.workers=1")
    process = command("train", config, "--output", tmp_path / "run")
    process.wait_for(has_step(tmp_path / "run", 3))
    process.signal(signal.SIGTERM, group=True)
    [end] = process.finish()
    assert (end.status, end.errors) == (143, "")
    assert end.output.count("stopped after step") == 1
    assert last(tmp_path / "run")["step"] >= 3


def test_two_processes_stop_together_where_one_gets_a_signal_and_one_process_goes_on(
    data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", data, "train.epochs=400", "train.accumulation=1")
    processes = command("train", config, "--output", output, processes=2)
    processes.wait_for(has_step(output, 2))
    processes.signal(signal.SIGTERM, rank=1)
    ends = processes.finish()
    assert [(end.status, end.errors) for end in ends] == [(143, "")] * 2
    assert [end.output.count("stopped after step") for end in ends] == [1, 0]
    step = last(output)["step"]
    assert step >= 2
    # as many images a step
    with signal_within_step(step + 1, signal.SIGTERM), pytest.raises(Stopped):
        train(tiny_config(data, "train.epochs=400"), output)
    assert last(output)["step"] == step + 1


def launcher(*arguments: str) -> None:
    """`python -m acmix.train.launch`."""
    sys.exit(launch.main(arguments))


@pytest.mark.slow
def test_launched_processes_stop_together_and_go_on(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", "", "train.epochs=400", "train.accumulation=1")
    environment: dict[str, Any] = dict(OUTPUT=str(output), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    step = 0
    for number, group in ((signal.SIGINT, True), (signal.SIGTERM, False)):
        process = Forked(launcher, "2", str(config), str(data), environment=environment)
        process.wait_for(has_step(output, step + 2))
        process.signal(number, group=group)
        [end] = process.finish()
        assert (end.status, end.output.count("stopped after step")) == (128 + number, 1)
        assert [line for line in end.errors.splitlines() if not line.startswith("acmix: no GPU found")] == []
        assert last(output)["step"] > step
        step = last(output)["step"]


TWICE = """
import os, signal, sys
from acmix.train import signals
signals.SAME_REQUEST_SECONDS = float(sys.argv[1])
with signals.StopRequest() as stop:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        print(stop.signal, flush=True)
"""


def test_a_signal_that_comes_twice_at_once_is_one_and_a_later_one_ends_the_process() -> None:
    assert python(TWICE, "60") == (0, "15\n15\n", "")
    assert python(TWICE, "0") == (-signal.SIGTERM, "15\n", "")


def test_sigusr2_saves_and_the_run_goes_on(data: Path, whole: Path, tmp_path: Path) -> None:
    written: list[int] = []
    plain = checkpoint.save

    def save(path: Path, contents: Any, **how: Any) -> None:
        written.append(contents["step"])
        plain(path, contents, **how)

    with pytest.MonkeyPatch.context() as patch, signal_within_step(3, signal.SIGUSR2):
        patch.setattr(checkpoint, "save", save)
        train(tiny_config(data), tmp_path)
    assert written[0] == 3
    assert written.count(3) == 1
    assert_same_bits(last(tmp_path), last(whole))


def test_under_nohup_a_closed_terminal_stops_nothing(data: Path, tmp_path: Path) -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), signal_within_step(3, signal.SIGHUP):
        assert train(tiny_config(data), tmp_path)["epochs"] == 2


GONE = """
import os, signal, time
from acmix.train import signals
signals.LOOK_SECONDS, signals.SAME_REQUEST_SECONDS = 0.01, 0.0
with signals.StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.environ["ACMIX_LAUNCHER_PROCESS"] = "1"
    signals.end_with_launcher()
    time.sleep(0.3)
    print(stop.signal)
"""


def test_a_run_that_saves_while_its_launcher_goes_saves_to_the_end() -> None:
    assert python(GONE) == (0, "15\n", "")


EARLY = """
import os, signal, sys
from acmix.cli.commands import app
from acmix.errors import UsageError
try:
    app(["train", "missing.yaml"], standalone_mode=False)
except UsageError:
    os.kill(os.getpid(), signal.SIGUSR2)
    print("goes on")
"""


def test_sigusr2_before_there_is_anything_to_save_is_ignored() -> None:
    assert python(EARLY) == (0, "goes on\n", "")
