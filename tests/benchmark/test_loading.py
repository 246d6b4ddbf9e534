"""Reading real JPEG files: through the training loader, by one core, beside timm's, and what the pixels are like."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from acmix import config
from acmix.benchmark.loading import CLASSES, COLUMNS, benchmark_data, file_size_of, write_photographs
from acmix.benchmark.reading import BINS, DEVICE, PEERS, STAGES, pair, pixels, resumed, stages
from acmix.errors import UsageError


def settings_of(folder: Path, **data: Any) -> config.Config:
    write_photographs(folder, 16, size=(120, 90))
    tree = {
        "model": {"num_classes": CLASSES},
        "data": {"dir": str(folder), "img_size": 32, "workers": 0, **data},
        "train": {"batch_size": 4},
    }
    return config.validate(tree)


def test_real_jpeg_files_are_read(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "figures.csv"
    options: Any = {"images": 8, "batch_size": 2, "img_size": 32, "workers": 0, "seconds": 1.0, "size": (100, 80)}
    assert benchmark_data(**options, against=["timm"], card=1e6, csv=file, say=said.append) > 0
    assert "JPEG of 100x80" in said[0]
    assert "0 reading processes" in said[0]
    assert "images/s a core" in said[1]
    assert all(stage in said[1] for stage in STAGES)
    assert "a card of 1e+06 images/s needs" in said[3]
    assert [line.split(":")[0] for line in said[4:]] == [f"speed-up over {peer}" for peer in PEERS]
    rows = list(csv.DictReader(file.open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["what"] for row in rows] == [f"stage {stage}" for stage in (*STAGES, DEVICE)] + ["pair", "pair"]
    assert sum(float(row["share"]) for row in rows if row["share"]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 4, "batch_size": 4}, "expected at least two batches"),
        ({"against": ["torchvision"]}, "--against torchvision; reading is compared with timm alone"),
        ({"card": 0.0}, "--card 0; expected images a second, above 0"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark_data(**options)


@pytest.mark.parametrize("text", ["500", "500x", "x375", "15x20", "500x9000", "a x b", "1x2x3"])
def test_a_size_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="expected width and height from 16 to 8192 pixels"):
        file_size_of(text)


@pytest.mark.parametrize("draft", [False, True])
def test_every_stage_of_a_core_takes_its_time(tmp_path: Path, draft: bool) -> None:
    threads = torch.get_num_threads()
    found = stages(settings_of(tmp_path, draft=draft), 0.0)
    assert found.keys() == {*STAGES, DEVICE}
    assert all(found[stage] > 0 for stage in ("decode", "crop, resize", "colours", DEVICE))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("peer", PEERS)
def test_timm_s_loader_reads_the_same_files_in_turn(tmp_path: Path, peer: str) -> None:
    found = pair(settings_of(tmp_path), peer, 0.0)
    assert found.rounds >= 5
    assert found.speed_up_low <= found.speed_up <= found.speed_up_high


def test_pixels_are_distributed_as_timm_s(tmp_path: Path) -> None:
    ours, theirs = pixels(settings_of(tmp_path), 300)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.histogram) == BINS
        assert sum(one.histogram) == pytest.approx(1.0, abs=1e-5)
        assert one.mean == pytest.approx(other.mean, abs=0.5)
        assert one.deviation == pytest.approx(other.deviation, abs=0.5)
        assert max(abs(a - b) for a, b in zip(one.histogram, other.histogram, strict=True)) < 0.02


def test_an_epoch_that_goes_on_reads_equal_batches(tmp_path: Path) -> None:
    assert resumed(settings_of(tmp_path)) == (2, 2)
