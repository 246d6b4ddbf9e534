"""The benchmark trains a small network for real, in real processes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from acmix.benchmark import benchmark_train
from acmix.errors import UsageError
from tests.support.paths import ROOT

# one of timm's networks for tests: 0.4 million parameters
SMALL = "test_vit"


@pytest.fixture(autouse=True)
def package_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the measuring processes find the package, wherever the tests were started."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))


def test_the_table_has_the_original_recipe_s_columns_and_the_csv_its_figures(tmp_path: Path) -> None:
    lines: list[str] = []
    file = tmp_path / "new" / "speed.csv"
    (row,) = benchmark_train([SMALL], processes=2, batch_size=2, img_size=160, steps=2, csv=file, say=lines.append)
    assert row.all_images_per_second is not None
    assert row.efficiency_percent == pytest.approx(50 * row.all_images_per_second / row.single_images_per_second)
    header = next(line for line in lines if line.startswith("card"))
    assert [title.strip() for title in header.split("|")] == ["card", "batch_size", "Single Card", "2 Cards"]
    assert lines[-2] == f"scaling efficiency: {row.efficiency_percent:.0f} %"
    (written,) = csv.DictReader(file.open(encoding="utf-8"))
    assert written["model"] == SMALL
    assert float(written["single_images_per_second"]) == pytest.approx(row.single_images_per_second, abs=1e-3)
    assert written["phase"] == "train"
    assert "torch" in written["versions"]


def test_inference_is_measured_alone(tmp_path: Path) -> None:
    lines: list[str] = []
    (row,) = benchmark_train([SMALL], phase="infer", batch_size=2, img_size=160, steps=1, say=lines.append)
    assert (row.phase, row.all_images_per_second) == ("infer", None)
    assert "images/s in inference" in lines[-4]


@pytest.mark.parametrize(
    ("models", "settings", "said"),
    [
        (["no_such_model"], {}, "no_such_model"),
        ([], {}, "no model to measure"),
        ([SMALL], {"batch_size": 3}, "choose an even number"),
        ([SMALL], {"processes": 0}, "expected at least one of each"),
        ([SMALL], {"precision": "fp8"}, "train.precision='fp8'"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(models: list[str], settings: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        benchmark_train(models, **{"batch_size": 2, **settings}, say=lambda line: None)  # type: ignore[arg-type]
