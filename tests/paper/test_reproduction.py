"""The page of claims: its tables are the results', and each verdict follows from figures whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from acmix.layers import PathRates
from acmix.paper import claims, reproduction
from acmix.paper.claims import HELD, MISSING, NOT_HELD, OPEN, Found, verdicts
from acmix.paper.paths import Over
from acmix.paper.runs import DONE, Run
from tests.support.paths import ROOT

SEEDS = {"fashion_paths_swin": 5, "fashion_paths_resnet": 5}


def runs(grid: str, **means: float) -> list[Run]:
    """Runs of a grid whose arms lie around means, by the same noise at each seed but for a little."""
    return [
        Run(
            grid,
            arm,
            seed,
            DONE,
            "top-1",
            f"{mean + seed + 0.01 * (seed % 2):.6f}",
            seconds="60.0",
            commit="1234567890",
        )
        for arm, mean in means.items()
        for seed in range(SEEDS.get(grid, 3))
    ]


def over(*rates: tuple[float, float]) -> Over:
    """Three seeds of a network of these rates."""
    every = [[PathRates(a + 0.001 * seed, b) for a, b in rates] for seed in range(3)]
    return Over(["a", "b", "c"], [f"layers.{at}" for at in range(len(rates))], every, [])


def in_both(found: Over) -> dict[str, Over]:
    """The same rates in both forms."""
    return {"swin": found, "resnet": found}


def shifts(*speed_ups: str) -> list[dict[str, str]]:
    """Rows of explicit shifts beside the grouped convolution."""
    common = {"line": "paper_shifts", "peer": "explicit shifts", "candidate": "grouped convolution, learned"}
    return [
        {**common, "phase": "forward", "shape": "7x7", "speed_up": each, "speed_up_low": each, "speed_up_high": each}
        for each in speed_ups
    ]


PATHS = [
    *runs("fashion_paths_swin", both=80, attention=78, convolution=79),
    *runs("fashion_paths_resnet", both=80, attention=78, convolution=79),
]
RATES = runs("fashion_rates", learned=80, one=79, half=79.5, softmax=81)
KERNELS = runs("fashion_kernels", learned_from_shifts=80, frozen_shifts=79, learned_from_random=79)


def of(**found: Any) -> list[str]:
    """The six verdicts."""
    nothing: dict[str, Any] = {"decomposed": [], "runs": [], "over": {}, "speed": []}
    return [each.verdict for each in verdicts(Found(**{**nothing, **found}))]


def test_nothing_measured_is_no_verdict() -> None:
    assert of() == [MISSING] * 6


def test_claims_that_hold() -> None:
    found = of(runs=[*PATHS, *RATES, *KERNELS], over=in_both(over((0.3, 0.9), (0.9, 0.3))), speed=shifts("1.2", "1.5"))
    assert found[2:] == [HELD] * 4


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (2, {"runs": [*PATHS[:-5], *runs("fashion_paths_resnet", convolution=81)]}),
        (3, {"runs": runs("fashion_rates", learned=80, one=80.5, half=79)}),
        (4, {"runs": KERNELS, "speed": shifts("0.8", "0.9")}),
        (4, {"runs": KERNELS, "speed": shifts("0.9", "1.1")}),
        (5, {"over": {"swin": over((0.3, 0.9), (0.9, 0.3)), "resnet": over((0.9, 0.3), (0.3, 0.9))}}),
    ],
)
def test_claims_that_do_not_hold(place: int, found: dict[str, Any]) -> None:
    assert of(**found)[place] == NOT_HELD


def test_what_seeds_do_not_tell_is_left_open() -> None:
    noisy = [Run("fashion_rates", "one", seed, DONE, "top-1", f"{80 + 3 * seed:.6f}") for seed in range(3)]
    found = of(runs=[*(run for run in RATES if run.arm != "one"), *noisy], over=in_both(over((0.5, 0.5), (0.9, 0.3))))
    assert (found[3], found[5]) == (OPEN, OPEN)


def test_a_part_of_the_seeds_is_no_verdict() -> None:
    assert of(runs=PATHS[:-1])[2] == MISSING
    assert of(runs=[run for run in RATES if run.seed < 2])[3] == MISSING


def test_rates_of_one_form_are_no_verdict() -> None:
    assert of(over={"swin": over((0.3, 0.9), (0.9, 0.3))})[5] == MISSING


def test_a_time_that_was_refused_is_no_verdict() -> None:
    assert of(runs=KERNELS, speed=shifts("1.2", "WRONG"))[4] == MISSING


def test_a_proof_that_fails_is_seen() -> None:
    rows = [{"what": "difference", "of": "3×3 convolution, float64", "value": "1e-3"}]
    assert of(decomposed=rows)[0] == NOT_HELD


def test_the_page_says_what_the_results_say() -> None:
    page = (ROOT / reproduction.PAGE).read_text(encoding="utf-8")
    found = claims.read(ROOT / "benchmarks" / "results")
    assert reproduction.filled(page, found) == page
    for name in reproduction.TABLES:
        assert f"<!-- paper:{name} -->" in page


def test_the_script_writes_tables_and_measures_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / reproduction.PAGE
    page.parent.mkdir()
    page.write_text("<!-- paper:summary -->\nold\n<!-- /paper:summary -->\n", encoding="utf-8")
    results = tmp_path / "benchmarks" / "results"
    monkeypatch.setattr(sys, "argv", ["paper.py", "--only", "decompose", "figure"])
    assert reproduction.main(tmp_path) == 0
    assert "convolution in two stages" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.count(f"**{HELD}**") == 2
    assert text.count(f"**{MISSING}**") == 4
    assert {each.name for each in results.iterdir()} == {
        "paper_decompose.csv",
        "paper_decompose.png",
        "paper_figure.png",
    }
