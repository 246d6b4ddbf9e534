"""The log of a run is read as it was meant, and drawn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acmix.errors import UsageError
from acmix.train.plots import draw_curves, draw_paths, read_log, stage_starts
from tests.support.paths import ROOT
from tests.support.runs import BLOCKS, log_lines, write_run


def ink(path: Path) -> float:
    """The share of a picture's pixels that are not white."""
    with Image.open(path) as picture:
        picture.load()
        return float((np.asarray(picture.convert("L")) < 250).mean())


def test_every_step_and_epoch_is_read_in_order(tmp_path):
    log = read_log(write_run(tmp_path))
    assert [record["step"] for record in log.steps] == list(range(5, 61, 5))
    assert [log.progress(record) for record in log.epochs] == [1, 2, 3, 4, 5, 6]
    assert log.start["parameters"] == 226_412
    assert log.resumed == 0


def test_what_a_resumed_run_repeats_counts_once_with_its_later_record(tmp_path):
    first, again = log_lines(epochs=3), log_lines(epochs=4)
    for line in again:
        if line["event"] == "step":
            line["loss"] = 7.0
    resumed = [again[0], *(line for line in again[1:] if line["step"] > 20)]
    log = read_log(write_run(tmp_path, lines=first + resumed))
    assert [record["epoch"] for record in log.epochs] == [0, 1, 2, 3]
    assert [record["loss"] == 7.0 for record in log.steps] == [record["step"] > 20 for record in log.steps]
    assert log.resumed == 1


def test_a_line_torn_by_a_kill_is_skipped(tmp_path):
    run = write_run(tmp_path)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 65, "lo')
    assert read_log(run).steps[-1]["step"] == 60


@pytest.mark.parametrize("line", ["9" * 5000, "[" * 100_000, "{}", "null", '"x"'], ids=lambda line: line[:3])
def test_a_line_that_is_no_record_is_skipped(tmp_path, line):
    run = write_run(tmp_path)
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    assert read_log(run).steps == read_log(write_run(tmp_path / "other")).steps


def test_a_start_glued_to_a_torn_line_is_found(tmp_path):
    run = write_run(tmp_path)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 65, "lo' + json.dumps({"event": "start", "commit": "later"}) + "\n")
    log = read_log(run)
    assert (log.start["commit"], log.resumed) == ("later", 1)


def test_a_folder_without_a_log_is_refused_in_one_line(tmp_path):
    for function in (read_log, draw_curves, draw_paths):
        with pytest.raises(UsageError, match=r"holds no log\.jsonl: expected the output folder") as error:
            function(tmp_path)
        assert "\n" not in str(error.value)


def test_curves_and_paths_are_whole_pictures_and_nothing_else_is_left(tmp_path):
    run = write_run(tmp_path)
    before = set(run.iterdir())
    pictures = {draw_curves(run), draw_paths(run)}
    assert pictures == {run / "curves.png", run / "paths.png"}
    assert all(ink(path) > 0.01 for path in pictures)
    assert set(run.iterdir()) - before == pictures


def test_a_plain_model_has_no_picture_of_paths(tmp_path):
    run = write_run(tmp_path, lines=log_lines(blocks=[]))
    assert draw_paths(run) is None
    assert not (run / "paths.png").exists()


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_run_that_has_hardly_begun_is_drawn(tmp_path, epochs):
    run = write_run(tmp_path, lines=log_lines(epochs=epochs))
    assert ink(draw_curves(run)) > 0.005


@pytest.mark.slow
def test_epochs_without_evaluation_and_losses_that_are_no_number_are_drawn_as_gaps(tmp_path):
    lines = log_lines()
    for line in lines:
        if line["event"] == "epoch" and line["epoch"] % 2:
            line.update(val_loss=None, top1=None, top5=None, train_loss=math.nan)
    assert ink(draw_curves(write_run(tmp_path, lines=lines))) > 0.01


def test_rates_come_in_network_order_with_the_epochs_passed(tmp_path):
    rates = read_log(write_run(tmp_path)).rates()
    assert list(rates) == BLOCKS
    passed, attention, conv = rates[BLOCKS[0]][-1]
    assert passed == 6
    assert conv > attention


def test_stages_are_read_from_names_that_have_two_numbers():
    assert stage_starts(BLOCKS) == [2]
    assert stage_starts(["blocks.0.attn", "blocks.1.attn"]) == []


def test_the_picture_in_the_readme_is_what_its_script_draws():
    images = ROOT / "docs" / "images"
    code = "import runpy, sys; sys.stdout.write(runpy.run_path(sys.argv[1])['picture']())"
    command = [sys.executable, "-X", "utf8", "-c", code, str(images / "make_acmix_picture.py")]
    drawn = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    assert drawn == (images / "acmix.svg").read_text(encoding="utf-8")
