"""`benchmarks/downstream_costs.py`: what the plain forms cost is what was published of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from acmix.benchmark.published.downstream import (
    COLUMNS,
    DETECTION_SIZE,
    SWIN_TINY,
    UNKNOWN,
    detector_cost,
    filling_gmacs,
    gmacs_of,
    segmenter_cost,
)
from acmix.layers import WindowAttention

ROOT = Path(__file__).resolve().parent.parent.parent.parent


def stored() -> list[dict[str, str]]:
    """The rows of the file that is published."""
    path = ROOT / "benchmarks" / "results" / "downstream_costs.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_stored_plain_forms_are_within_1_5_percent_of_the_published() -> None:
    known = [row for row in stored() if row["published_gmacs"] != UNKNOWN]
    assert [row["head"] for row in known].count("upernet") == 2
    assert len(known) >= 7
    for row in known:
        assert int(row["parameters"]) / 1e6 == pytest.approx(float(row["published_parameters_m"]), rel=0.015)
        assert float(row["gmacs_filled"]) == pytest.approx(float(row["published_gmacs"]), rel=0.015)


def test_every_model_is_stored_plain_and_with_paths() -> None:
    found = [(row["head"], row["backbone"], row["conv_path"]) for row in stored()]
    for head, backbone, _ in found:
        assert (head, backbone, "True") in found
        assert (head, backbone, "False") in found
    assert all(list(row) == COLUMNS for row in stored())


@pytest.mark.slow
def test_the_stored_figures_are_counted_again() -> None:
    (row,) = (
        row for row in stored() if (row["head"], row["backbone"], row["conv_path"]) == ("mask_rcnn", SWIN_TINY, "False")
    )
    counted = detector_cost("mask_rcnn", SWIN_TINY, False, *DETECTION_SIZE)
    assert counted.parameters == int(row["parameters"])
    assert f"{counted.gmacs:.1f}" == row["gmacs"]
    assert f"{counted.gmacs_filled:.1f}" == row["gmacs_filled"]
    for row in stored():
        if (row["head"], row["backbone"]) in (("upernet", SWIN_TINY), ("semantic_fpn", "acmix_resnet50")):
            sizes = int(row["height"]), int(row["width"])
            again = segmenter_cost(row["head"], row["backbone"], row["conv_path"] == "True", *sizes)
            assert (str(again.parameters), f"{again.gmacs:.1f}") == (row["parameters"], row["gmacs"])


def test_a_product_is_counted_as_by_hand() -> None:
    count, _ = gmacs_of(nn.Linear(30, 50), torch.zeros(20, 30))
    assert count * 1e9 == pytest.approx(20 * 30 * 50)


def test_filling_is_counted_where_a_window_is_not_full() -> None:
    layer = WindowAttention(8, 2, (4, 4))
    assert filling_gmacs(layer, torch.zeros(1, 8, 8, 8)) == 0
    # 5 × 9 pixels lie in windows of 8 × 12
    assert filling_gmacs(layer, torch.zeros(1, 5, 9, 8)) * 1e9 == pytest.approx(4 * 8 * 8 * (8 * 12 - 5 * 9))
