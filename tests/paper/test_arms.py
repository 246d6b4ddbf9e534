"""What is said of arms: figures, sentences and the picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix.paper.arms import HEAD, compared, draw, in_words, table, verdict
from acmix.paper.grid import Grid
from acmix.paper.runs import DONE, FAILED, Run

GRID = Grid(
    name="small",
    question="Which?",
    config="acmix_swin_digits",
    seeds=(0, 1, 2),
    baseline="both",
    arms={"both": (), "better": (), "equal": (), "few": (), "none": ()},
)


def runs() -> list[Run]:
    """Three seeds of most arms."""
    values = {
        "both": [90.0, 91.0, 92.0],
        "better": [91.0, 92.1, 92.9],
        "equal": [90.1, 90.9, 92.0],
        "few": [95.0],
    }
    found = [
        Run("small", arm, seed, DONE, "top-1", f"{value:.6f}")
        for arm, of_arm in values.items()
        for seed, value in enumerate(of_arm)
    ]
    return [*found, Run("small", "few", 1, FAILED, said="status 1: it broke")]


def test_every_arm_is_compared_seed_by_seed() -> None:
    found = {arm.name: arm for arm in compared(GRID, runs())}
    assert found["both"].difference is None
    better = found["better"].difference
    assert better is not None
    assert better.mean == pytest.approx(1.0)
    assert better.is_told_apart
    assert found["few"].failed == (1,)
    said = {name: verdict(arm, "both") for name, arm in found.items()}
    assert said["both"] == "both is what the others are compared with."
    assert said["better"] == "better is better than both, by 1.00 points."
    assert said["equal"].startswith("equal and both are not told apart; equal may be up to ")
    assert said["few"] == "few: too few seeds to tell it from both. 1 of its runs failed."
    assert said["none"] == "none: too few seeds to tell it from both."


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    arms = compared(GRID, runs())
    rows = table(arms)
    assert {len(row) for row in rows} == {len(HEAD)}
    assert rows[0] == ("both", "91.00 ± 1.00 (3)", "baseline", "", "", "", "")
    assert rows[1][:3] == ("better", "92.00 ± 0.95 (3)", "+1.00")
    assert rows[-1] == ("none", "no run ended", "", "", "", "", "0")
    file = draw(GRID, arms, tmp_path / "new" / "arms.png")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_arms_with_the_same_results_are_said_to_have_them() -> None:
    copies = [Run("small", "equal", each.seed, DONE, "top-1", each.value) for each in runs() if each.arm == "both"]
    others = [each for each in runs() if each.arm != "equal"]
    found = {arm.name: arm for arm in compared(GRID, [*others, *copies])}
    assert verdict(found["equal"], "both") == "equal gave the same results as both at every seed."
    nearly = [Run("small", "equal", each.seed, DONE, "top-1", f"{float(each.value) + 1e-4}") for each in copies]
    found = {arm.name: arm for arm in compared(GRID, [*others, *nearly])}
    assert verdict(found["equal"], "both") == "equal is better than both, by 0.0001 points."
    assert table([*found.values()])[2][2:4] == ("+0.0001", "+0.0001 to +0.0001")


@pytest.mark.parametrize(("p", "said"), [(0.0431, "0.043"), (0.0004, "<0.001"), (0.0, "<0.001"), (1.0, "1.000")])
def test_a_probability_is_never_printed_as_none(p: float, said: str) -> None:
    assert in_words(p) == said
