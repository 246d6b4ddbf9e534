"""The reference of settings is whole, true and up to date, as `acmix config` and docs/settings.md give it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from acmix.config import complete, known_keys
from acmix.config.reference import Setting, describe, overview, page, settings
from acmix.errors import UsageError
from tests.support.paths import ROOT


def value(tree: Any, key: str) -> Any:
    """The value of `section.key`."""
    section, _, name = key.partition(".")
    return getattr(getattr(tree, section), name)


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.key)
def test_every_setting_has_a_meaning_and_an_example_that_is_taken(setting: Setting) -> None:
    assert setting.meaning, f"{setting.key}: write its meaning as a docstring below it in acmix/config/schema.py"
    assert setting.meaning.endswith("."), setting.meaning
    *others, example = shlex.split(setting.example)
    assert example.startswith(setting.key)
    given = value(complete({}, [*others, example], where="the example"), setting.key)
    alone = "," not in setting.kind and " or " not in setting.kind and setting.kind == setting.default
    assert alone or given != value(complete({}, [], where="the defaults"), setting.key)


def test_the_list_has_a_line_for_every_key_that_fits_100_columns() -> None:
    lines = list(overview())
    assert [line.split()[0] for line in lines if line.startswith("  ")] == known_keys()
    assert [line for line in lines if len(line) > 100] == []
    assert max(len(line) for line in overview(80)) == 80


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "train.epochs",
            ["train.epochs", "type     whole number from 1 to 1000000", "default  300", "example  train.epochs=90"],
        ),
        ("epochs", ["train.epochs"]),
        ("train.epochs=3", ["train.epochs"]),
        ("optimizer", ["optimizer.name", "optimizer.lr", "optimizer.layer_decay"]),
        ("name", ["model.name", "optimizer.name", "schedule.name"]),
        ("model.args.depths", ["model.args", "example  model.args.window_size=8"]),
        ("augment", ["augment: What happens to a training image.", "augment=recipe: the defaults"]),
        ("train.precision", ["type     auto, fp32, bf16 or fp16"]),
        (
            "augment.scale",
            ["type     list of 2 numbers above 0, at most 1, or null", "example  'augment.scale=[0.5, 1]'"],
        ),
        ("data.workers", ["type     whole number from 0 to 256, or null"]),
        ("optimizer.momentum", ["type     number from 0 to below 1"]),
        ("data.background", ["type     text, or list of 3 whole numbers"]),
        ("data.mean", ["type     list of numbers from 0 to 1"]),
    ],
)
def test_a_key_a_section_and_a_bare_name_are_explained(name: str, said: list[str]) -> None:
    lines = [line.strip() for line in describe(name)]
    assert set(said) <= set(lines)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train.epoch", "did you mean 'train.epochs'?"),
        ("optimizr", "did you mean 'optimizer'?"),
        ("train.lr", "did you mean 'optimizer.lr'?"),
        ("learning_rate", "did you mean 'optimizer.lr'?"),
        ("optimizer.learning_rate", "did you mean 'optimizer.lr'?"),
        ("imgsz", "did you mean 'data.img_size'?"),
        ("data.imgsize", "did you mean 'data.img_size'?"),
        ("foo", "`acmix config` lists all"),
        ("", "`acmix config` lists all"),
    ],
)
def test_an_unknown_key_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        list(describe(name))
    assert str(error.value) == f"there is no setting {name!r}; {said}"


def test_the_page_of_settings_is_up_to_date() -> None:
    saved = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert saved == page(), "run python scripts/settings_page.py"
