"""A small network is trained for real, in real processes: on one card and on two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from acmix.benchmark.machine import Ceilings
from acmix.benchmark.networks import benchmark_networks
from acmix.benchmark.record import rows, write_rows
from acmix.errors import UsageError
from tests.support.paths import ROOT

# one of timm's networks for tests: 0.4 million parameters
SMALL = "test_vit"
CEILINGS = Ceilings({"fp32": 1e11}, 1e10)


@pytest.fixture(autouse=True)
def package_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the measuring processes find the package, wherever the tests were started."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.mark.slow
def test_the_table_has_the_original_recipe_s_columns_and_the_record_both_figures(tmp_path: Path) -> None:
    """A model of ours is checked before its processes are timed."""
    said: list[str] = []
    single, together = benchmark_networks(
        ["acmix_resnet26"], phase="train", processes=2, batch_size=2, img_size=32, seconds=0.0, say=said.append
    )
    assert single.speed is not None
    assert together.speed is not None
    assert (single.candidate, together.candidate, together.peer) == ("acmix", "acmix, 2 cards", "acmix")
    assert together.speed.rounds == single.speed.rounds
    speed_up = together.speed.images_per_second / single.speed.images_per_second
    assert together.speed.speed_up == pytest.approx(speed_up)
    header, _, figures = said[said.index(next(line for line in said if line.startswith("card"))) :][:3]
    assert [title.strip() for title in header.split("|")] == ["card", "batch_size", "Single Card", "2 Cards"]
    assert [cell.strip() for cell in figures.split("|")][1:] == [
        "2",
        f"{single.speed.images_per_second:.1f}",
        f"{together.speed.images_per_second:.1f}",
    ]
    assert said[-1] == f"scaling efficiency: {50 * speed_up:.0f} %"
    written = rows([single, together], line="train", device=torch.device("cpu"))
    write_rows(written, tmp_path / "speed.csv")
    assert [row["machine"] for row in written] == [single.machine, together.machine]
    assert "thread" in written[0]["machine"]


def test_inference_is_measured_alone() -> None:
    said: list[str] = []
    (measured,) = benchmark_networks(
        [SMALL], phase="infer", batch_size=2, img_size=160, seconds=0.0, ceilings=CEILINGS, say=said.append
    )
    assert (measured.candidate, measured.peer) == ("timm", None)
    assert "images/s in inference" in said[-4]


@pytest.mark.parametrize(
    ("models", "settings", "said"),
    [
        (["no_such_model"], {}, "no_such_model"),
        ([], {}, "no model to measure"),
        ([SMALL], {"batch_size": 3}, "choose an even number"),
        ([SMALL], {"processes": 0}, "expected at least one"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(models: list[str], settings: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        benchmark_networks(models, phase="train", **{"batch_size": 2, **settings}, say=len)  # type: ignore[arg-type]
