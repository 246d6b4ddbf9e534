"""A run that was stopped, at whatever moment, ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from acmix.errors import UsageError
from acmix.train.loop import train
from acmix.train.plots import read_log
from acmix.train.signals import Stopped
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, Command, assert_same_bits, last, start, tiny_config, write_config

# 40 training images, 8 a step
STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    return make_image_folder(root / "images", classes=CLASSES, train_per_class=10, val_per_class=3, size=40)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that nothing interrupts."""
    folder = tmp_path_factory.mktemp("resume") / "whole"
    train(tiny_config(data), folder)
    return folder


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that step within three minutes"
        time.sleep(0.005)


def has_step(folder: Path, step: int) -> Callable[[], bool]:
    """Whether a run has logged a step."""
    log = folder / "log.jsonl"
    return lambda: log.is_file() and any(record["step"] >= step for record in read_log(folder).steps[-1:])


@contextmanager
def signal_at(folder: Path, step: int, number: int) -> Iterator[None]:
    """Sends this very process a signal as soon as a run has logged a step."""

    def send() -> None:
        wait_for(has_step(folder, step))
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield
    sender.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(
    data: Path, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    with signal_at(tmp_path, 2, number), pytest.raises(Stopped) as stopped:
        train(tiny_config(data), tmp_path)
    assert stopped.value.exit_code == code
    assert last(tmp_path)["step"] in (3, 4)
    train(tiny_config(data), tmp_path)
    assert_same_bits(last(tmp_path), last(whole))
    # an epoch's mean loss covers the steps from before the stop too
    ours, theirs = (read_log(folder).epochs for folder in (tmp_path, whole))
    assert [record["train_loss"] for record in ours] == [record["train_loss"] for record in theirs]
    assert [record["top1"] for record in ours] == [record["top1"] for record in theirs]


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few steps an epoch and many validation images: time to be stopped while they are evaluated."""
    root = tmp_path_factory.mktemp("larger")
    return make_image_folder(root / "images", classes=CLASSES, train_per_class=4, val_per_class=60, size=40)


def test_a_run_stopped_while_it_evaluates_does_not_wait_and_evaluates_again(larger: Path, tmp_path: Path) -> None:
    settings = tiny_config(larger, "train.epochs=1")
    with signal_at(tmp_path / "stopped", 2, signal.SIGTERM), pytest.raises(Stopped):
        train(settings, tmp_path / "stopped")
    assert (last(tmp_path / "stopped")["step"], last(tmp_path / "stopped")["epochs_ended"]) == (2, 0)
    assert not (tmp_path / "stopped" / "checkpoints" / "best.pt").exists()
    ours, theirs = train(settings, tmp_path / "stopped"), train(settings, tmp_path / "whole")
    assert_same_bits(last(tmp_path / "stopped"), last(tmp_path / "whole"))
    assert (ours["top1"], ours["epochs"]) == (theirs["top1"], 1)


def test_one_command_is_killed_then_stopped_and_ends_with_the_same_bits(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    command = ("train", write_config(tmp_path / "tiny.yaml"), "--data", data, "--output", output, "data.workers=1")
    process = Command(*command)
    wait_for(has_step(output, STEPS_PER_EPOCH + 2))
    process.signal(signal.SIGKILL)
    assert [status for status, _, _ in process.finish()] == [-signal.SIGKILL]
    assert last(output)["step"] == STEPS_PER_EPOCH
    # as a kill amid writing leaves it
    unfinished = output / "checkpoints" / ".last.pt.123.tmp"
    unfinished.write_bytes(b"PK half a checkpoint")

    (output / "log.jsonl").unlink()
    process = Command(*command)
    wait_for(has_step(output, STEPS_PER_EPOCH + 2))
    # a terminal sends Ctrl-C to the reading process too
    process.signal(signal.SIGINT, group=True)
    [(status, said, errors)] = process.finish()
    assert (status, errors, said.count("stopped after step")) == (130, "", 1)
    assert "run the same command again to go on" in said

    train(tiny_config(data), output)
    assert_same_bits(last(output), last(whole))
    assert sorted(path.name for path in unfinished.parent.iterdir()) == ["best.pt", "last.pt"]


def test_a_signal_to_the_whole_group_leaves_the_reading_processes_to_the_last_step(data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.yaml", data, "train.epochs=400", "data.workers=1")
    process = start("train", config, "--output", tmp_path / "run", module="acmix")
    wait_for(has_step(tmp_path / "run", 3))
    os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (143, "")
    assert said.count("stopped after step") == 1
    assert last(tmp_path / "run")["step"] >= 3


def test_two_processes_stop_together_and_go_on(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", "", "train.epochs=400", "train.accumulation=1")
    command = dict(module="acmix.train.launch", OUTPUT=str(output))
    step = 0
    for number, send in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
        process = start("2", config, data, **command)
        wait_for(has_step(output, step + 2))
        send(process.pid, number)
        said, errors = process.communicate(timeout=120)
        assert (process.returncode, said.count("stopped after step")) == (128 + number, 1)
        assert len([line for line in errors.splitlines() if not line.startswith("acmix: no GPU found")]) == 0, errors
        assert last(output)["step"] > step
        step = last(output)["step"]
    # as many images a step: one process can go on with what two began
    with signal_at(output, step + 1, signal.SIGTERM), pytest.raises(Stopped):
        train(tiny_config(data, "train.epochs=400"), output)


def test_a_finished_run_says_so_and_changes_nothing(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    began = time.monotonic()
    summary = train(tiny_config(data), whole)
    assert time.monotonic() - began < 2
    assert "this run is finished" in capsys.readouterr().out
    assert summary == json.loads((whole / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


def test_a_finished_run_goes_on_when_epochs_are_raised(data: Path, tmp_path: Path) -> None:
    assert train(tiny_config(data, "train.epochs=1"), tmp_path)["epochs"] == 1
    assert train(tiny_config(data, "train.epochs=2"), tmp_path)["epochs"] == 2
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2 * STEPS_PER_EPOCH
    assert [record["epoch"] for record in read_log(tmp_path).epochs] == [1, 2]


def test_weight_decay_may_change_between_two_calls(data: Path, tmp_path: Path) -> None:
    train(tiny_config(data, "train.epochs=1"), tmp_path)
    train(tiny_config(data, "train.epochs=2", "optimizer.weight_decay=0.3"), tmp_path)
    assert {group["weight_decay"] for group in last(tmp_path)["optimizer"]["param_groups"]} == {0.0, 0.3}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=2", "global batch size 8, now it would be 4"),
        ("model.name=acmix_swin_small_patch4_window7_224", "model.name acmix_swin_tiny_patch4_window7_224, now"),
        ("model.conv_path=false", "holds the weights of another model: 10 unknown"),
        ("model.args={embed_dim: 24, depths: [1, 1], num_heads: [1, 2], window_size: 4}", "of another shape"),
        ("optimizer.name=sgd", "optimizer.name adamw, now it would be sgd"),
        ("optimizer.weight_decay=0", "groups the parameters in another way"),
        ("train.ema_decay=null", "train.ema_decay 0.9, now it would be None"),
        ("train.seed=1", "train.seed 0, now it would be 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(data: Path, whole: Path, override: str, said: str) -> None:
    before = (whole / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UsageError) as error:
        train(tiny_config(data, "train.epochs=3", override), whole)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert (whole / "checkpoints" / "last.pt").read_bytes() == before


def test_a_checkpoint_of_other_classes_is_refused(data: Path, whole: Path, tmp_path: Path) -> None:
    make_image_folder(tmp_path, classes=CLASSES, train_per_class=10, val_per_class=1, size=40)
    for split in ("train", "val"):
        (tmp_path / split / "class_03").rename(tmp_path / split / "zebra")
    with pytest.raises(UsageError, match="was trained on other classes than those of"):
        train(tiny_config(tmp_path), whole)


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, Any]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["truncated", "empty", "hostile", "weights alone"])
def test_a_last_pt_that_cannot_be_gone_on_from_is_one_line_and_stays(
    data: Path, whole: Path, tmp_path: Path, kind: str
) -> None:
    import pickle

    target = tmp_path / "checkpoints" / "last.pt"
    target.parent.mkdir()
    executed = tmp_path / "executed"
    content = {
        "truncated": (whole / "checkpoints" / "last.pt").read_bytes()[:5000],
        "empty": b"",
        "hostile": pickle.dumps({"format": "acmix", "model": Hostile(executed)}),
        "weights alone": (whole / "checkpoints" / "best.pt").read_bytes(),
    }[kind]
    target.write_bytes(content)
    with pytest.raises(UsageError) as error:
        train(tiny_config(data), tmp_path)
    assert str(target) in str(error.value)
    assert "\n" not in str(error.value)
    assert target.read_bytes() == content
    assert not executed.exists()
