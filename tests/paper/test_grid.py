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


def written(folder: Path, changes: dict[Any, Any] | None = None, **more: Any) -> Path:
    """A grid's file."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**GRID, **(changes or {}), **more}, sort_keys=False))
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
        ({"seeds": [1, 1]}, "expected different seeds from 0 to 2147483647, not 1, 1"),
        ({"seeds": [0, 10**40]}, "expected different seeds from 0 to 2147483647"),
        ({"seeds": []}, "seeds: expected at least one"),
        ({"seeds": 3}, "seeds: expected a list"),
        ({"arms": {"both": [], "grid.yaml": []}}, "'grid.yaml' is no name"),
        ({"arms": {"both": [], "other": ["data.dir=elsewhere"]}}, "data.dir is no setting of a grid"),
        ({"settings": ["data.dir=elsewhere"]}, "data.dir is no setting of a grid"),
        ({"settings": ["train.seed=1"]}, "train.seed is no setting of a grid"),
        ({"name": "../up"}, "'../up' is no name"),
        ({"arms": {"both": [], "a/b": []}}, "'a/b' is no name"),
        ({"arms": {"both": "x"}}, "arms.both: expected a list"),
        ({"question": None}, "question"),
        ({"seeds": [True, False]}, "seeds.0: expected a whole number"),
        ({"seeds": [0, 1.0]}, "seeds.1: expected a whole number"),
        ({"seeds": [0, "1"]}, "seeds.1: expected a whole number"),
        ({"arms": {"both": [], 1: []}}, "arms: the key 1 is no text; put it in quotes"),
        ({"arms": {"both": [], True: []}}, "arms: the key True is no text; put it in quotes"),
        ({1: []}, "the key 1 is no text; put it in quotes"),
    ],
)
def test_what_is_no_grid_is_refused(changes: dict[Any, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_grid(written(tmp_path, changes))
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "small.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arms: [}", r'small.yaml is not YAML: .* in "small.yaml", line 1, column 8'),
        ("a: 1\na: 2", r"the key 'a' stands twice in \"small.yaml\", line 1"),
        ("#" * (2**20 + 1), "small.yaml: it is larger than 1 MiB, more than a file of settings may be"),
    ],
)
def test_what_is_no_yaml_is_said_of_its_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_grid(tmp_path / "small.yaml")


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="no grid 'fashion_rate'; did you mean 'fashion_rates'"):
        read_grid("fashion_rate")


@pytest.mark.parametrize(
    "setting", ["train.epochs=3", "data.img_size=64", "data.split=0.5", "train.device=cpu", "model.checkpoint=x.pt"]
)
def test_arms_share_budget_data_and_start(setting: str, tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, arms={"both": [], "other": [setting]}))
    with pytest.raises(UsageError, match=f"arm 'other' has {setting.partition('=')[0]}="):
        grid.check(str(tmp_path))


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, arms={"both": [], "other": ["model.arg.path=attention"]}))
    with pytest.raises(UsageError, match=r"model\.arg"):
        grid.check(str(tmp_path))
