"""`acmix config show` prints settings that train the same, of whatever holds some."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix import config
from acmix.errors import UsageError
from acmix.released import load_config
from acmix.tools.settings import resolved
from acmix.train.checkpoint import save
from tests.support.paths import DATA, ROOT


def test_a_configuration_is_shown_with_its_overrides() -> None:
    shown = config.parse(resolved("acmix_swin_digits", ["train.epochs=3"]))
    assert config.validate(shown) == config.load("acmix_swin_digits", ["train.epochs=3"])


def test_a_run_folder_and_a_checkpoint_are_shown(tmp_path: Path) -> None:
    settings = config.load("acmix_swin_digits", ["train.epochs=3"])
    (tmp_path / "config.yaml").write_text(config.dump(settings), encoding="utf-8")
    contents = {"config": settings.model_dump(mode="json"), "classes": [], "model": {}}
    save(tmp_path / "best.pt", contents)
    for source in (tmp_path, tmp_path / "config.yaml", tmp_path / "best.pt"):
        assert config.validate(config.parse(resolved(str(source)))) == settings
        assert config.validate(config.parse(resolved(str(source), ["train.epochs=4"]))).train.epochs == 4


def test_released_files_are_shown_in_our_layout(tmp_path: Path) -> None:
    file = tmp_path / "released.yaml"
    file.write_text(
        "MODEL: {TYPE: swin, SWIN: {EMBED_DIM: 48, WINDOW_SIZE: 4}}\nTRAIN: {EPOCHS: 3}\n", encoding="utf-8"
    )
    assert config.validate(config.parse(resolved(str(file)))) == load_config(file)
    weights = resolved(str(DATA / "official_checkpoint_toy.pth"))
    assert config.validate(config.parse(weights)).model.name.startswith("acmix_swin")


def test_what_the_weights_decide_is_shown_as_auto(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {mean: [0.5, 0.5, 0.5]}\nmodel: {checkpoint: a.pt}\n", encoding="utf-8")
    shown = config.parse(resolved(str(tmp_path / "mine.yaml")))
    assert (shown["data"]["img_size"], shown["data"]["mean"]) == ("auto", [0.5, 0.5, 0.5])
    decided = {"img_size", "std", "interpolation", "crop_pct"}
    assert config.validate(shown).data.model_fields_set == config.Data.model_fields.keys() - decided


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("acmix_swin_tiny", "did you mean 'acmix_swin_tiny_patch4_window7_224'"),
        ("nothing.pt", "there is no checkpoint nothing.pt"),
        (str(ROOT), "holds no config.yaml"),
    ],
)
def test_what_holds_no_settings_is_one_line(source: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        resolved(source)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
