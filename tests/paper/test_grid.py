"""Grids: those that are shipped fit, and what is no grid is refused in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix.errors import UsageError
from acmix.paper.grid import read_grid, shipped

GRID: dict[str, Any] = {
    "name": "small",
    "question": "Is one better than the other?",
    "config": "acmix_swin_digits",
    "seeds": [0, 1],
    "baseline": "both",
    "arms": {"both": [], "attention": ["model.args.path=attention"]},
}


def written(folder: Path, **changes: Any) -> Path:
    """A grid's file."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return file


@pytest.mark.parametrize("name", shipped())
def test_shipped_grids_fit_and_say_what_they_are(name: str, tmp_path: Path) -> None:
    grid = read_grid(name)
    grid.check(str(tmp_path))
    assert grid.name == name
    assert grid.question.endswith(".") or "?" in grid.question
    assert grid.data
    least = 5 if name.startswith("fashion_paths") else 3
    assert len(grid.seeds) >= least


def test_runs_come_seed_by_seed(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path))
    assert grid.runs() == [("both", 0), ("attention", 0), ("both", 1), ("attention", 1)]
    settings = grid.configuration("attention", 1, "some place: #1")
    assert (settings.train.seed, settings.data.dir) == (1, "some place: #1")
    assert settings.model.args is not None
    assert settings.model.args["path"] == "attention"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arm": {}}, "unknown key 'arm'; did you mean 'arms'"),
        ({"baseline": "bth"}, "baseline 'bth' is no arm; did you mean 'both'"),
        ({"seeds": [1, 1]}, "expected different seeds from 0 on, not 1, 1"),
        ({"seeds": []}, "seeds"),
        ({"name": "../up"}, "'../up' is no name"),
        ({"arms": {"both": [], "a/b": []}}, "'a/b' is no name"),
        ({"arms": {"both": "x"}}, "arms.both"),
        ({"question": None}, "question"),
    ],
)
def test_what_is_no_grid_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_grid(written(tmp_path, **changes))
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "small.yaml"))


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="no grid 'fashion_rate'; did you mean 'fashion_rates'"):
        read_grid("fashion_rate")


@pytest.mark.parametrize("setting", ["train.epochs=3", "data.img_size=64", "train.seed=9", "data.split=0.5"])
def test_arms_share_budget_and_data(setting: str, tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, arms={"both": [], "other": [setting]}))
    key = setting.partition("=")[0]
    if key == "train.seed":
        # a run's seed stands behind what its arm says
        grid.check(str(tmp_path))
        assert grid.configuration("other", 1, str(tmp_path)).train.seed == 1
        return
    with pytest.raises(UsageError, match=f"arm 'other' has {key}="):
        grid.check(str(tmp_path))


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, arms={"both": [], "other": ["model.arg.path=attention"]}))
    with pytest.raises(UsageError, match=r"model\.arg"):
        grid.check(str(tmp_path))
