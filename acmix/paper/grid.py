"""A grid of runs: arms that differ in a few settings, each with the same seeds, the same data and the same budget."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator

from acmix import config as configuration
from acmix.config import Config
from acmix.errors import UsageError
from acmix.near import did_you_mean
from acmix.train.resume import flat
from acmix.yaml_text import quoted

# what makes budgets differ, and the order of the data: no arm may change it
SHARED = (
    *("data.", "train.epochs", "train.steps", "train.patience", "train.batch_size", "train.accumulation", "train.seed"),
    *("train.device", "model.checkpoint", "model.pretrained"),
)
# what is said in place of the schema's own words
EXPECTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    "too_short": "expected at least one",
    "dict_type": "expected arms by name, each with a list of key=value",
    "string_type": "expected text",
    "int_type": "expected a whole number",
}
# what the command and the seeds say, and no grid
TAKEN = ("data.dir", "train.seed")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MOST_ARMS, MOST_SEEDS, LARGEST_SEED = 32, 100, 2**31 - 1


class Grid(BaseModel):
    """What a grid's file holds.

    Args:
        name: of the grid, in its files and folders.
        question: what it is to answer, in a sentence.
        config: of all runs, as `acmix train CONFIG` takes it.
        settings: `key=value` that all arms have.
        seeds: of every arm.
        baseline: the arm that the others are compared with.
        arms: name to `key=value` that it alone has.
        data: name of a data set of `acmix data fetch` and how much of it, for whoever runs the grid; not read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str
    config: str
    settings: tuple[str, ...] = ()
    seeds: Annotated[tuple[StrictInt, ...], Field(min_length=1, max_length=MOST_SEEDS)]
    baseline: str
    arms: Annotated[dict[str, tuple[str, ...]], Field(min_length=1, max_length=MOST_ARMS)]
    data: str = ""

    @field_validator("name")
    @classmethod
    def is_a_name(cls, name: str) -> str:
        """Refuses what cannot be a folder."""
        return checked_name(name)

    @field_validator("arms")
    @classmethod
    def are_names(cls, arms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Refuses arms whose names cannot be folders."""
        for name in arms:
            checked_name(name)
        return arms

    @field_validator("seeds")
    @classmethod
    def are_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Refuses the same seed twice: two runs of it are one."""
        if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) > LARGEST_SEED:
            raise ValueError(f"expected different seeds from 0 to {LARGEST_SEED}, not {', '.join(map(str, seeds))}")
        return seeds

    @model_validator(mode="after")
    def leaves_data_and_seeds(self) -> Grid:
        """Refuses settings that the command and the seeds give."""
        for setting in (*self.settings, *(each for of_arm in self.arms.values() for each in of_arm)):
            key = setting.partition("=")[0].strip()
            if key in TAKEN or key == "data":
                raise ValueError(f"{key} is no setting of a grid: --data gives the images, and seeds the seed")
        return self

    @model_validator(mode="after")
    def has_baseline(self) -> Grid:
        """Refuses a baseline that is no arm."""
        if self.baseline not in self.arms:
            hint = did_you_mean(self.baseline, list(self.arms), otherwise=f"expected one of {', '.join(self.arms)}")
            raise ValueError(f"baseline {self.baseline!r} is no arm; {hint}")
        return self

    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of every run, seed by seed, so that a grid that was stopped has whole comparisons."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    def overrides(self, arm: str, seed: int, data: str) -> list[str]:
        """All settings of a run, as `acmix train` takes them."""
        return [*self.settings, *self.arms[arm], f"train.seed={seed}", f"data.dir={quoted(data)}"]

    def configuration(self, arm: str, seed: int, data: str) -> Config:
        """The configuration of a run.

        Raises:
            UsageError: a setting that does not exist or does not fit, with the arm.
        """
        try:
            return configuration.load(self.config, self.overrides(arm, seed, data))
        except UsageError as error:
            raise self.of_arm(arm, error) from None

    def of_arm(self, arm: str, error: UsageError) -> UsageError:
        """An error with the arm that it is of."""
        return UsageError(f"grid {self.name}: arm {arm!r}: {error}")

    def check(self, data: str) -> None:
        """Refuses arms that do not fit their configuration, or whose budget or data differ from the baseline's.

        Raises:
            UsageError: with the arm and the setting.
        """
        expected = flat(self.configuration(self.baseline, self.seeds[0], data))
        for arm in self.arms:
            for key, value in flat(self.configuration(arm, self.seeds[0], data)).items():
                if key.startswith(SHARED) and value != expected[key]:
                    raise UsageError(
                        f"grid {self.name}: arm {arm!r} has {key}={value} and {self.baseline!r} has {expected[key]}; "
                        "arms have the same budget and the same data"
                    )


def checked_name(name: str) -> str:
    """A name that can be a folder's."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name; expected up to 40 of a-z, 0-9, '-' and '_'")
    return name


def shipped() -> dict[str, Path]:
    """The grids of this package by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "grids").glob("*.yaml"))}


def read_grid(source: str | os.PathLike[str]) -> Grid:
    """A grid of a file, or one of this package's by its name.

    Raises:
        UsageError: there is no such file, or it is no grid.
    """
    known, path = shipped(), Path(source)
    if not os.path.isfile(path):
        name = path.name.removesuffix(".yaml")
        if str(path.parent) != "." or name not in known:
            hint = did_you_mean(name, list(known), otherwise=f"there are {', '.join(known)}")
            raise UsageError(f"no grid {str(source)!r}; {hint}")
        path = known[name]
    tree = configuration.read_tree(path)
    try:
        return Grid.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["loc"][-1:] == ("[key]",) or problem["type"] == "invalid_key":
            # of a key within a section pydantic says which it is, and of one at the top only its text
            within = ".".join(map(str, problem["loc"][:-2]))
            name = repr(problem["input"]) if within else key
            where = f"{path}: {within}: " if within else f"{path}: "
            raise UsageError(f"{where}the key {name} is no text; put it in quotes") from None
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(key, list(Grid.model_fields), otherwise=f"expected {', '.join(Grid.model_fields)}")
            raise UsageError(f"{path}: unknown key {key!r}; {hint}") from None
        said = EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        raise UsageError(f"{path}: {key + ': ' if key else ''}{said[:1].lower()}{said[1:]}") from None
