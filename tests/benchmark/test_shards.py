"""The benchmark of shards counts what is lost and doubled, and writes a row for each pair."""

import csv

import pytest

from acmix.benchmark import shards
from tests.support.images import make_image_folder


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


@pytest.mark.slow
def test_a_reading_process_that_ends_is_not_waited_for(tmp_path):
    folder = make_image_folder(tmp_path / "folder", classes=2, train_per_class=2, val_per_class=1, size=16)
    # of other classes than the benchmark has, so it ends at once
    with pytest.raises(RuntimeError, match="a reading process ended"), shards.Readers({"a": folder}, 1, 0) as readers:
        readers.epoch("a")
