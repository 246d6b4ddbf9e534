"""The pages' figures on reading come from a script that also runs small."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from acmix.benchmark.published import data
from acmix.benchmark.reading import PEERS


@pytest.mark.slow
def test_the_script_measures_both_sizes_and_compares_pixels(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(
        "sys.argv", ["data.py", "--seconds", "0", "--pixels", "64", "--output", str(tmp_path / "d.csv")]
    )
    monkeypatch.setattr(data, "SIZES", (((60, 50), 16, False), ((300, 200), 16, True)))
    monkeypatch.setattr(data, "BATCH_SIZE", 4)
    assert data.main(tmp_path) == 0
    with (tmp_path / "d.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["file_size"], row["draft"], row["peer"]) for row in rows if row["what"] == "pair"]
    kinds = [("60x50", "False"), ("300x200", "False"), ("300x200", "True")]
    assert pairs == [(*kind, peer) for kind in kinds for peer in PEERS]
    with (tmp_path / "data_pixels.csv").open() as file:
        assert [(row["channel"], row["side"]) for row in csv.DictReader(file)] == [
            (channel, side) for channel in data.CHANNELS for side in ("acmix", "timm")
        ]
    assert (tmp_path / "d.png").stat().st_size > 1000
    assert "2 of 2 batches equal to the bit" in capsys.readouterr().out
