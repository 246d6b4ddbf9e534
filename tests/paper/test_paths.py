"""Rates over seeds: read from runs, told, drawn, and the claim tested on rates whose answer is known."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from acmix.errors import UsageError
from acmix.layers import PathRates
from acmix.paper.paths import Over, halves, log_ratio, read, read_table, verdict
from acmix.paper.paths import table as rows_of

Call = Callable[..., tuple[int, str, str]]
BLOCKS = [f"layers.{stage}.blocks.{block}.attn" for stage in range(2) for block in range(2)]


def write_run(
    folder: Path, rates: Sequence[tuple[float, float]], blocks: Sequence[str] = BLOCKS, epochs: int = 2
) -> Path:
    """A run folder whose log tells rates that grow towards those given."""
    folder.mkdir(parents=True)
    lines = [{"event": "start", "steps_per_epoch": 1, "config": {"model": {"name": "acmix_swin_tiny"}}}]
    for epoch in range(1, epochs + 1):
        now = {
            block: [0.5 + (rate - 0.5) * epoch / epochs for rate in both]
            for block, both in zip(blocks, rates, strict=True)
        }
        lines.append({"event": "epoch", "epoch": epoch, "step": epoch, "rates": now})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# convolution first, attention later
AS_CLAIMED = [(0.3, 0.9), (0.4, 0.8), (0.8, 0.4), (-0.9, 0.3)]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds."""
    return [
        write_run(tmp_path / f"seed_{seed}", [(a + 0.02 * seed, b) for a, b in AS_CLAIMED], epochs=2 + seed)
        for seed in range(3)
    ]


def test_the_claim_is_tested_over_seeds(acmix: Call, runs: list[Path], tmp_path: Path) -> None:
    table, picture = tmp_path / "rates.csv", tmp_path / "new" / "rates.png"
    status, said, errors = acmix("paper", "paths", *runs, "--csv", table, "--picture", picture)
    assert (status, errors) == (0, "")
    assert "Claim 6 holds here" in said
    assert "layers.1.blocks.1.attn" in said
    with table.open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == (2 + 3 + 4) * len(BLOCKS)
    assert str(tmp_path.parent) not in table.read_text(encoding="utf-8")
    last = [row for row in rows if row["run"] == f"{tmp_path.name}/seed_0" and row["epoch"] == "2"]
    assert [(float(row["alpha"]), float(row["beta"])) for row in last] == AS_CLAIMED
    assert picture.read_bytes().startswith(b"\x89PNG")
    ours, theirs = read(runs), read_table(table)
    assert (ours.names, ours.blocks) == (theirs.names, theirs.blocks)
    assert rows_of(ours) == rows_of(theirs)
    assert verdict(ours) == verdict(theirs)


@pytest.mark.parametrize(
    "text", ["", "run,block,epoch,alpha,beta\n", "run,block,epoch,alpha,beta\na,b,1,x,1\n", "a\nb\n"]
)
def test_a_table_that_is_none_of_ours_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text(text)
    with pytest.raises(UsageError, match="rates"):
        read_table(tmp_path / "rates.csv")


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([(0.9, 0.3), (0.8, 0.4), (0.4, 0.8), (0.3, 0.9)], "Claim 6 does not hold here: attention's part falls"),
        ([(0.3, 0.9), (0.3, 0.9), (0.4, 0.8), (0.4, 0.8)], "Claim 6 does not hold here: attention's part grows"),
        ([(0.5, 0.5), (0.5, 0.5), (0.9, 0.3), (0.9, 0.3)], "These runs do not decide claim 6: attention's part grows"),
    ],
)
def test_what_does_not_hold_is_said(rates: list[tuple[float, float]], said: str) -> None:
    every = [[PathRates(a + 0.001 * (seed - 1), b) for a, b in rates] for seed in range(3)]
    assert verdict(Over(["a", "b", "c"], BLOCKS, every, []))[-1].startswith(said)


def test_one_run_and_one_block_decide_nothing(acmix: Call, runs: list[Path], tmp_path: Path) -> None:
    status, said, _ = acmix("paper", "paths", runs[0], "--picture", tmp_path / "one.png")
    assert status == 0
    assert "One run tells no seed from another" in said
    alone = [write_run(tmp_path / name, [(0.4, 0.6)], ["attn"]) for name in "ab"]
    status, said, _ = acmix("paper", "paths", *alone)
    assert status == 0
    assert "One block has no early and no late half" in said


def test_ratios_are_of_sizes_and_leave_zeros_out() -> None:
    assert log_ratio(PathRates(-0.5, 0.25)) == pytest.approx(math.log(2))
    for unknown in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)):
        assert math.isnan(log_ratio(PathRates(*unknown)))
    assert log_ratio(PathRates(1e-320, 1e10)) == pytest.approx(-759.85, abs=0.01)
    early, late = halves([PathRates(1.0, 1.0), PathRates(0.0, 1.0), PathRates(2.0, 1.0), PathRates(2.0, 1.0)])
    assert (early, late) == (0.0, pytest.approx(math.log(2)))


def test_runs_are_told_apart_and_none_counts_twice(acmix: Call, runs: list[Path], tmp_path: Path) -> None:
    others = [write_run(tmp_path / "other" / run.name, AS_CLAIMED) for run in runs]
    over = read([*runs, *others])
    assert over.names == [f"{tmp_path.name}/seed_{i}" for i in range(3)] + [f"other/seed_{i}" for i in range(3)]
    deeper = write_run(tmp_path / "deep" / "other" / "seed_0", AS_CLAIMED)
    assert len(set(read([others[0], deeper]).names)) == 2
    status, said, errors = acmix("paper", "paths", runs[0], runs[0].parent / "." / runs[0].name)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert "given twice" in errors


def test_rates_that_are_all_zero_leave_no_ratio(acmix: Call, tmp_path: Path) -> None:
    places = [write_run(tmp_path / name, [(0.0, 1.0)] * 4, epochs=1) for name in "ab"]
    status, said, _ = acmix("paper", "paths", *places, "--picture", tmp_path / "zero.png")
    assert status == 0
    assert "leave no ratio" in said


def test_runs_of_two_networks_are_refused(acmix: Call, runs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", AS_CLAIMED[:2], BLOCKS[:2])
    status, said, errors = acmix("paper", "paths", *runs, other)
    assert (status, said) == (2, "")
    assert "has other blocks than" in errors
    assert errors.count("\n") == 1
    status, said, errors = acmix("paper", "paths", tmp_path / "nowhere")
    assert (status, said, errors.count("\n")) == (2, "", 1)


def test_a_lead_is_told_in_digits_that_show_it() -> None:
    every = [[PathRates(0.5 - 1e-4 * (2 + 0.1 * seed), 0.5)] * 4 for seed in range(3)]
    over = Over(["a", "b", "c"], BLOCKS, every, [])
    said = verdict(over)
    assert said[-1].endswith("convolution leads in the first half and convolution leads in the second half.")
    assert "-0.00042 (-0.00047 to -0.00037) in the first half" in said[0]
    assert "-0.00 " not in " ".join(said)
    assert "-0.000 " not in " ".join(rows_of(over)[0])
