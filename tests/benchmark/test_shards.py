"""The benchmark of shards counts what is lost and doubled, and writes a row for each pair."""

import csv

import pytest

from acmix.benchmark import shards


@pytest.mark.slow
def test_every_pair_has_a_row_and_no_image_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["shards.py", "--images", "32", "--output", str(tmp_path / "shards.csv")])
    monkeypatch.setattr(shards, "PROCESSES", (2,))
    monkeypatch.setattr(shards, "WORKERS", (0,))
    assert shards.main(tmp_path) == 0
    with (tmp_path / "shards.csv").open() as file:
        [row] = csv.DictReader(file)
    assert (row["processes"], row["workers"], row["images"], row["lost"], row["doubled"]) == ("2", "0", "32", "0", "0")
    assert float(row["speed_up"]) > 0
