"""The published tables of docs/scaling.md, and how a round is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from acmix.benchmark.scale import check
from acmix.benchmark.scale.check import COLUMNS, Round, Setting, row_of, speed_of, speeds, tables
from acmix.benchmark.scale.parts import parts_of
from acmix.benchmark.scale.recipe import SINGLE, SOURCES, TOGETHER, implied, recipe_parts, recipe_sets
from acmix.benchmark.scale.step import simulate
from acmix.benchmark.scale.table import rows
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_tables_of_the_page_are_the_saved_ones() -> None:
    for name, text in tables(ROOT).items():
        assert f"<!-- scale:{name} -->\n{text}\n<!-- /scale:{name} -->" in PAGE


def test_the_saved_table_is_what_is_predicted_now() -> None:
    with (ROOT / "benchmarks" / "results" / "scale_table.csv").open(newline="") as file:
        saved = [[row["title"], int(row["cards"]), float(row["efficiency"])] for row in csv.DictReader(file)]
    now = [[row["title"], row["cards"], row["efficiency"]] for parts in recipe_sets() for row in rows(parts)]
    assert saved == now


def test_the_fitted_recipe_gives_the_published_figures() -> None:
    parts = recipe_parts("InfiniBand")
    assert simulate(parts, 1).images_per_second == pytest.approx(SINGLE)
    assert simulate(parts, 8).images_per_second == pytest.approx(TOGETHER, abs=0.01)
    assert recipe_parts("Ethernet").compute == parts.compute


def test_the_page_says_what_the_published_efficiency_implies() -> None:
    found, step = implied(), simulate(recipe_parts("InfiniBand"), 8)
    text = " ".join(PAGE.split())
    for said in (
        f"an efficiency of {100 * found.efficiency:.1f} %",
        f"A step of {1000 * 128 / SINGLE:,.1f} ms is {found.extra_ms:.1f} ms longer",
        f"steps deviate by {100 * found.deviation:.2f} %",
        f"at {found.without_overlap_gb:.1f} GB/s without overlap, or the last bucket alone at "
        f"{found.last_bucket_gb:.1f} GB/s",
        f"{1000 * step.exposed:.1f} ms are communication, and the other {1000 * step.waiting:.1f} ms are waiting, by a "
        f"deviation of {100 * recipe_parts('InfiniBand').compute.deviation:.2f} %",
    ):
        assert said in text
    assert all(source in PAGE for source in SOURCES.values())


def test_a_row_holds_the_medians_and_the_range_of_its_rounds() -> None:
    tree = {
        "compute": {"batch_size": 4, "forward_ms": 10, "backward_ms": 20},
        "gradients": {"mib": 20},
        "network": {"cards_per_node": 2, "inside": {"gb_per_second": 1, "latency_us": 100}},
    }
    parts = parts_of(tree, "parts")
    found = [Round(10, 18, parts), Round(10, 17, parts), Round(10, 10, parts)]
    row = row_of(Setting(4, 1), found)
    assert set(row) == set(COLUMNS)
    assert [row[f"efficiency{which}"] for which in ("", "_low", "_high")] == [0.85, 0.5, 0.9]
    assert row["predicted_efficiency"] == pytest.approx(found[0].predicted, rel=1e-4)


def test_the_first_record_of_a_run_is_left_out(tmp_path: Path) -> None:
    records = [{"event": "start"}, *({"event": "step", "images_per_second": speed} for speed in (1.0, 5.0, 6.0))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert speeds(tmp_path) == [5.0, 6.0]
    # 10 images take 2 s, then 1 s
    assert speed_of([5.0, 10.0]) == pytest.approx(20 / 3)


@pytest.mark.slow
def test_a_round_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(check, "MODEL", {**check.MODEL, "args": {"embed_dim": 12, "depths": [1], "num_heads": [1]}})
    data = check.few_to_validate(tmp_path)
    found = check.one_round(Setting(2, 1), data, tmp_path / "round", steps=10, seconds=0.1)
    assert found.one > 0
    assert found.two > 0
    assert 0 < found.predicted <= 1
