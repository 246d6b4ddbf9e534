"""What a run says and writes down of itself."""

from __future__ import annotations

import errno
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from acmix.errors import UsageError
from acmix.train.log import RunLog, command
from acmix.train.loop import train
from acmix.train.plots import read_log
from tests.support.images import make_image_folder
from tests.support.tiny import CLASSES, tiny_config

pytestmark = pytest.mark.usefixtures("undrawn")


def test_tensorboard_reads_what_was_written(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/lr", "train/grad_norm", "epoch/top1", "epoch/train_loss"} <= tags
    assert any(tag.startswith("rates/") for tag in tags)
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]


def test_the_log_has_every_epoch_and_at_least_one_step_of_each(finished: Path) -> None:
    log = read_log(finished)
    assert [record["epoch"] for record in log.epochs] == [1, 2, 3]
    assert [record["step"] for record in log.steps] == [2, 4, 6]
    assert [record["top1"] is not None for record in log.epochs] == [False, True, True]
    assert log.epochs[0]["rates"].keys() == {"layers.0.blocks.0.attn", "layers.1.blocks.0.attn"}
    assert log.start["versions"].keys() == {"python", "torch", "timm"}
    assert {"command", "commit", "device", "config", "parameters", "processes", "precision"} <= log.start.keys()


def test_the_first_line_says_what_was_chosen(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_config(data, "train.epochs=1", "train.precision=bf16", "train.channels_last=true"), tmp_path)
    said = capsys.readouterr().out.splitlines()[0]
    begins = "chosen: bf16 · fused adamw · channels last · not compiled · 0 reading processes · operators: "
    assert said.startswith(begins)
    first = json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["event"] == "start"
    assert (first["precision"], first["fused"], first["channels_last"], first["compile"]) == ("bf16", True, True, False)
    assert first["workers"] == 0
    assert first["operators"].keys() == {"conv_path", "window_attention", "local_attention", "patchwise_attention"}
    assert all(name in said for name in first["operators"].values())


def test_few_unreadable_images_are_listed_at_the_end_and_many_are_an_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_image_folder(tmp_path / "images", CLASSES, train_per_class=25, val_per_class=1, size=32)
    (images / "train" / "class_02" / "0007.JPEG").write_bytes(b"\xff\xd8 torn")
    settings = tiny_config(images, "train.epochs=1", "train.batch_size=50")
    summary = train(settings, tmp_path / "few")
    assert [Path(name).name for name in summary["unreadable"]] == ["0007.JPEG"]
    said = capsys.readouterr().out
    assert "1 file left out, as unreadable:" in said
    named, reason = said.rstrip().splitlines()[-2:]
    assert named.strip().endswith("class_02/0007.JPEG")
    assert reason.strip().startswith("(cannot read image")
    (images / "train" / "class_03" / "0008.JPEG").write_bytes(b"")
    with pytest.raises(UsageError, match="2 of the 100 train images are unreadable, over 1%") as error:
        train(settings, tmp_path / "many")
    assert "0008.JPEG" in str(error.value)


def test_a_tensorboard_that_cannot_be_imported_is_one_line_and_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None is what Python takes for "not there"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    summary = train(tiny_config(data, "train.epochs=1", "train.tensorboard=true"), tmp_path)
    assert summary["epochs"] == 1
    said = capsys.readouterr().out
    assert said.count("no event files for TensorBoard are written, as it cannot be imported") == 1
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "log.jsonl").is_file()


def test_a_run_ends_well_where_nothing_can_be_drawn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(folder: Path) -> None:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr("acmix.train.epoch_end.draw_curves", draw)
    assert train(tiny_config(data, "train.epochs=1"), tmp_path)["epochs"] == 1
    assert "are not drawn, as matplotlib cannot be imported (No module named 'matplotlib')" in capsys.readouterr().out


def test_a_run_goes_on_where_tensorboard_cannot_write(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(SummaryWriter, "close", full)
    assert train(tiny_config(data, "train.tensorboard=true", "train.epochs=1"), tmp_path)["epochs"] == 1
    assert capsys.readouterr().out.count("no more event files for TensorBoard are written") == 1


def test_tensorboards_own_thread_prints_no_traceback_where_the_disk_is_full(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    plain = RecordWriter.write

    def full(writer: Any, record: bytes) -> None:
        if (tmp_path / "log.jsonl").read_text().count('"event": "step"'):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(writer, record)

    # pytest has a hook of its own there
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(RecordWriter, "write", full)
    assert train(tiny_config(data, "train.tensorboard=true", "train.epochs=1"), tmp_path)["epochs"] == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert said.out.count("no more event files for TensorBoard are written") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_by_what_could_not_be_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, active=True, keep=True, tensorboard=False, total_steps=1, first_step=0, shown=())
    assert log.file is not None
    log.file.close()
    log.file = open("/dev/full", "w")  # noqa: SIM115  closed below
    with pytest.raises(UsageError, match="cannot write /dev/full: No space left"):
        log.write("step", step=1)
    log.close()
    assert log.file.closed


def test_the_command_of_a_run_is_kept_without_passwords(monkeypatch):
    address = "https://me:word@host/x?token=1"
    typed = ["acmix", "train", "photos?", "--data", address, f"data.dir={address}"]
    monkeypatch.setattr("sys.orig_argv", ["python", *typed])
    assert command() == "acmix train 'photos?' --data https://host/x data.dir=https://host/x"
