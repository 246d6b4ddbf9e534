"""A grid of real training runs: trained, stopped, killed, resumed to the bit, and told."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from acmix.paper.grid import read_grid
from acmix.paper.runs import COLUMNS, TABLE, kept, runs_of
from acmix.train.lock import held
from tests.support.processes import command

Call = Callable[..., tuple[int, str, str]]

SETTINGS = [
    *("model.num_classes=4", "model.args.embed_dim=12", "model.args.depths=[1, 1]"),
    *("model.args.num_heads=[1, 2]", "train.batch_size=8"),
    *("train.evaluate_every_epochs=1", "schedule.warmup_epochs=0"),
]


def written(folder: Path, epochs: int = 1, **changes: Any) -> Path:
    """A grid's file: two arms, two seeds, seconds."""
    grid = {
        "name": "small",
        "question": "Is one better than the other?",
        "config": "acmix_swin_digits",
        "settings": [*SETTINGS, f"train.epochs={epochs}"],
        "seeds": [0, 1],
        "baseline": "both",
        "arms": {"both": [], "attention": ["model.args.path=attention"]},
        **changes,
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    return file


def rows(file: Path) -> list[dict[str, str]]:
    """A table's rows."""
    with file.open(encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return [*reader]


@pytest.mark.slow
def test_a_grid_is_trained_told_and_kept(acmix: Call, data: Path, tmp_path: Path) -> None:
    grid, output, table = written(tmp_path), tmp_path / "runs", tmp_path / "all.csv"
    call = ("paper", "ablation", grid, "--data", data, "--output", output, "--csv", table)
    status, said, errors = acmix(*call)
    assert (status, errors) == (0, "")
    assert "4 of 4 runs done" in said
    assert "attention: too few" not in said
    # each run is told once, whichever ends first
    for name in ("both/seed_0", "attention/seed_0", "both/seed_1", "attention/seed_1"):
        assert said.count(f"{name}: top-1 ") == 1
    assert (output / "ablation.png").is_file()
    found = rows(output / TABLE)
    assert [(row["arm"], row["seed"], row["status"]) for row in found] == [
        *(("both", "0", "done"), ("attention", "0", "done"), ("both", "1", "done"), ("attention", "1", "done")),
    ]
    assert rows(table) == found
    assert all(0 <= float(row["value"]) <= 100 and float(row["seconds"]) > 0 for row in found)
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*.pt")}
    # again: nothing is left to train
    status, said, _ = acmix(*call)
    assert status == 0
    assert "4 of 4 runs are done" in said
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*.pt")} == before
    status, said, _ = acmix("paper", "ablation", grid, "--output", output, "--status")
    assert status == 0
    assert "4 of 4 runs done" in said


@pytest.mark.slow
def test_a_stopped_grid_waits_no_longer_for_a_run_that_another_process_trains(data: Path, tmp_path: Path) -> None:
    grid, folder = written(tmp_path), tmp_path / "runs" / "both" / "seed_0"
    kept(read_grid(grid), tmp_path / "runs")
    folder.mkdir(parents=True)
    process = command("paper", "ablation", grid, "--data", data, "--output", tmp_path / "runs")
    with held(folder):
        # the table is written where a run starts, and none does
        process.wait_for(lambda: "runs are done" in "".join(each.read_text() for each in process.folder.glob("0.out")))
        time.sleep(1)
        asked = time.monotonic()
        process.signal(signal.SIGINT)
        [end] = process.finish()
    assert time.monotonic() - asked < 30
    assert end.status == 130
    assert "stopping: the runs save where they are" in end.output
    assert [*folder.iterdir()] == []


@pytest.mark.slow
def test_a_grid_that_was_stopped_or_killed_ends_as_one_that_was_not(acmix: Call, data: Path, tmp_path: Path) -> None:
    grid = written(tmp_path, epochs=4, seeds=[0])

    def command(output: Path, jobs: int = 2) -> list[str | Path]:
        return ["paper", "ablation", grid, "--data", data, "--output", output, "--jobs", str(jobs)]

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "acmix", *map(str, command(broken))], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert any(b"runs are done" in line for line in process.stdout)
        until = time.monotonic() + 120
        while time.monotonic() < until and not any(broken.glob("*/*/log.jsonl")):
            time.sleep(0.1)
        process.send_signal(number)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 128 + number
        assert b"stopping: the runs save where they are" in said
        assert b"the runs have saved; the same command goes on" in said
        assert b"Traceback" not in errors
        assert all(row["status"] in ("started", "done", "failed") for row in rows(broken / TABLE))
    # one at a time has the machine's cores, and yet the threads that the runs were begun with
    status, told, _ = acmix(*command(broken, jobs=1))
    assert status == 0
    assert "each, as it was begun" in told
    assert acmix(*command(whole))[0] == 0
    ours, theirs = (
        {(each.arm, each.seed): (each.value, each.device) for each in runs_of(read_grid(grid), place)}
        for place in (broken, whole)
    )
    assert ours == theirs
    assert len(ours) == 2
    for arm, seed in ours:
        weights = [
            torch.load(place / arm / f"seed_{seed}" / "checkpoints" / "last.pt", weights_only=True)["model"]
            for place in (broken, whole)
        ]
        torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.slow
def test_a_grid_whose_process_is_killed_leaves_no_run_behind(acmix: Call, data: Path, tmp_path: Path) -> None:
    grid, output = written(tmp_path, epochs=2000, seeds=[0]), tmp_path / "runs"
    command = ["paper", "ablation", grid, "--data", data, "--output", output]
    process = subprocess.Popen([sys.executable, "-m", "acmix", *map(str, command)], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 180
    while time.monotonic() < until and len([*output.glob("*/*/log.jsonl")]) < 2:
        time.sleep(0.1)
    process.kill()
    process.wait()
    # those that were begun save and end, and their folders are free
    while time.monotonic() < until and any(output.glob("*/*/.held")):
        time.sleep(0.1)
    assert not any(output.glob("*/*/.held"))
    for folder in output.glob("*/seed_0"):
        assert (folder / "checkpoints" / "last.pt").is_file()
    status, said, _ = acmix("paper", "ablation", grid, "--output", output, "--status")
    assert status == 0
    assert "0 of 2 runs done; begun: " in said


@pytest.mark.slow
def test_runs_of_other_data_or_settings_are_not_gone_on_with(acmix: Call, data: Path, tmp_path: Path) -> None:
    grid, output = written(tmp_path, seeds=[0], arms={"both": []}), tmp_path / "runs"
    assert acmix("paper", "ablation", grid, "--data", data, "--output", output)[0] == 0
    (tmp_path / "link").symlink_to(data)
    assert acmix("paper", "ablation", grid, "--data", tmp_path / "link", "--output", output)[0] == 0
    other = tmp_path / "other"
    shutil.copytree(data, other)
    status, said, errors = acmix("paper", "ablation", grid, "--data", other, "--output", output)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert "was begun with data.dir" in errors


@pytest.mark.parametrize(
    "damage",
    [
        {"ended": "epochs", "last_top1": 50.0},
        {"ended": "epochs", "best_metric": "top1", "last_top1": float("nan")},
        {"ended": "epochs", "best_metric": ["top1"], "last_top1": 50.0},
    ],
)
def test_a_damaged_run_is_said_and_hides_no_other(damage: dict[str, Any], acmix: Call, tmp_path: Path) -> None:
    grid = written(tmp_path)
    output = tmp_path / "runs"
    kept(read_grid(grid), output)
    whole = {"ended": "epochs", "best_metric": "top1", "last_top1": 50.0}
    for arm, seed, summary in (("both", 0, damage), ("both", 1, whole), ("attention", 0, whole)):
        folder = output / arm / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text('{"event": "start", "config": "none", "steps_per_epoch": 1}\n')
        (folder / "summary.json").write_text(json.dumps(summary))
    (output / "attention" / "seed_1").mkdir()
    (output / "attention" / "seed_1" / "log.jsonl").write_text(
        '{"event": "start", "config": {"train": {"epochs": "a"}}}\n{"event": "epoch", "epoch": 1, "step": 1}\n'
    )
    status, said, errors = acmix("paper", "ablation", grid, "--output", output, "--status")
    assert (status, errors) == (0, "")
    assert "2 of 4 runs done; 1 failed; begun: attention/seed_1 0%" in said


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe", b"grid,arm,seed,extra\n" * 2, b'"' + b"x" * 200_000])
def test_a_table_of_somebody_else_is_left_alone(content: bytes, acmix: Call, tmp_path: Path) -> None:
    grid, output, table = written(tmp_path), tmp_path / "runs", tmp_path / "mine.csv"
    kept(read_grid(grid), output)
    table.write_bytes(content)
    status, _, errors = acmix("paper", "ablation", grid, "--output", output, "--status", "--csv", table)
    assert (status, errors.count("\n")) == (2, 1)
    assert "mine.csv" in errors
    assert table.read_bytes() == content


@pytest.mark.slow
def test_a_run_that_fails_is_said_and_stays_in_the_table(acmix: Call, data: Path, tmp_path: Path) -> None:
    # the settings and the network are sound; the steps are not
    grid = written(tmp_path, seeds=[0], arms={"both": [], "odd": ["optimizer.lr=1e30"]})
    output = tmp_path / "runs"
    status, said, errors = acmix("paper", "ablation", grid, "--data", data, "--output", output)
    assert status == 1
    assert "Traceback" not in said + errors
    found = {row["arm"]: row for row in rows(output / TABLE)}
    assert (found["both"]["status"], found["odd"]["status"]) == ("done", "failed")
    assert "not finite" in found["odd"]["said"]
    assert found["odd"]["said"] in " ".join(said.split())
    status, said, _ = acmix("paper", "ablation", grid, "--output", output, "--status")
    assert status == 0
    assert "1 failed" in said


@pytest.mark.slow
def test_in_the_background(acmix: Call, data: Path, tmp_path: Path) -> None:
    grid, output = written(tmp_path, seeds=[0]), tmp_path / "runs"
    status, said, errors = acmix("paper", "ablation", grid, "--data", data, "--output", output, "--background")
    assert (status, errors) == (0, "")
    assert "trains in the background" in said
    until = time.monotonic() + 180
    while time.monotonic() < until and "drawn: " not in (output / "ablation.log").read_text():
        time.sleep(0.2)
    assert "2 of 2 runs done" in (output / "ablation.log").read_text()
    process = int(said.split()[1])
    with suppress(ChildProcessError):
        os.waitpid(process, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--data is missing"),
        (["--data", "DATA", "--jobs", "0"], "--jobs 0; expected at least 1"),
        (["--status"], "no run of small was started in"),
        (["--data", "DATA", "--output", "MINE"], "holds other files than a grid's runs"),
        (["--data", "DATA", "--output", "OTHER"], "holds runs of another grid"),
        (["--data", "DATA", "--output", "OTHER", "--background"], "holds runs of another grid"),
        (["--data", "DATA", "--output", "FILE", "--background"], "is no folder"),
        (["--data", "DATA", "--output", "FILE/x", "--background"], "cannot write"),
        (["--data", "DATA", "--jobs", "-1", "--background"], "--jobs -1; expected at least 1"),
        (["--data", "DATA", "--csv", "FILE/x.csv"], "cannot write"),
        (["--data", "nowhere"], "no data folder nowhere"),
        (["--data", "nowhere", "--background"], "no data folder nowhere"),
        (["--data", "DATA/train"], "has no train/ folder"),
        (["--data", "DATA/train", "--background"], "has no train/ folder"),
        (["--data", "FILE"], "is a file; expected a folder with train/ and val/"),
    ],
)
def test_bad_calls_are_one_line(options: list[str], said: str, acmix: Call, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "grid.yaml").write_text(written(tmp_path, seeds=[7]).read_text())
    (tmp_path / "file").write_text("dear")
    places = {"DATA": data, "MINE": tmp_path / "mine", "OTHER": tmp_path / "other", "FILE": tmp_path / "file"}
    given = [str(places.get(each, each)) for each in options]
    given = [each.replace("FILE/", f"{tmp_path / 'file'}/").replace("DATA/", f"{data}/") for each in given]
    default = [] if "--output" in given else ["--output", str(tmp_path / "runs")]
    status, output, errors = acmix("paper", "ablation", written(tmp_path), *given, *default)
    assert (status, output) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.args.bogus=3", "bogus"),
        ("model.args.rates=bogus", "rates"),
        ("model.args.num_heads=[5, 5]", "num_heads"),
        ("model.arg.path=attention", "model.arg"),
        ("schedule.min_lr=1", "schedule.min_lr=1 is above optimizer.lr"),
        ("model.num_classes=3", "model.num_classes"),
    ],
)
def test_every_arm_is_looked_at_before_the_first_run(
    setting: str, said: str, acmix: Call, data: Path, tmp_path: Path
) -> None:
    grid = written(tmp_path, arms={"both": [], "odd": [setting]})
    status, output, errors = acmix("paper", "ablation", grid, "--data", data, "--output", tmp_path / "runs")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "arm 'odd'" in errors
    assert said in errors
    assert not (tmp_path / "runs").exists()


def test_shipped_grids_are_listed(acmix: Call) -> None:
    status, said, _ = acmix("paper", "ablation", "--list")
    assert status == 0
    assert "fashion_paths_swin" in said
    assert "imagenet_claims" in said
