"""`augment=none|light|recipe` sets a whole section, single keys change it, and what nobody knows is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from acmix import config
from acmix.config import Augment, Data
from acmix.data.image import evaluation_transform
from acmix.data.training import training_transform
from acmix.errors import UsageError
from acmix.released import load_config
from acmix.tasks import Classification
from tests.support.prepared import finished
from tests.support.tiny import tiny_config


def augment(*overrides: str, source: str = "acmix_swin_digits") -> Augment:
    return config.load(source, overrides).augment


def test_a_preset_sets_the_whole_section_of_a_file() -> None:
    # the file's own hflip, crop and label smoothing too
    assert augment("augment=recipe") == Augment()
    assert augment("augment=light").hflip == 0.5
    assert augment("augment=none").label_smoothing == 0


@pytest.mark.parametrize("text", ["augment: light", "augment: 'light'", "{augment: light, train: {epochs: 2}}"])
def test_a_file_may_name_a_preset_too(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    light = config.load("acmix_swin_digits", ["augment=light"]).augment
    assert config.load(file).augment == load_config(file).augment == light
    assert config.load(file, ["augment.mixup=0.2"]).augment == light.model_copy(update={"mixup": 0.2})
    # the run's folder holds values, which a later version reads the same way
    (tmp_path / "config.yaml").write_text(config.dump(config.load(file)), encoding="utf-8")
    assert config.read_tree(tmp_path / "config.yaml")["augment"]["scale"] == [0.5, 1.0]
    assert config.load(tmp_path / "config.yaml").augment == light


def test_a_single_key_holds_on_either_side_of_a_preset() -> None:
    before, after = augment("augment.mixup=0.2", "augment=light"), augment("augment=light", "augment.mixup=0.2")
    assert before == after
    assert (after.mixup, after.cutmix, after.scale) == (0.2, 0.0, (0.5, 1.0))
    # of two presets, and of two values of one key, the later one
    assert augment("augment=none", "augment.mixup=1", "augment=light", "augment.mixup=0.2") == after


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augment=ligth", "augment=ligth: no such preset; did you mean 'light'? expected none, light, recipe"),
        ("augment=Recipe", "did you mean 'recipe'?"),
        ("augment=strong", "augment=strong: no such preset; expected none, light, recipe, or single keys"),
        ("augment=0", "augment=0: no such preset; expected none"),
        ("augment=[light]", "augment=[light]: no such preset"),
        ("augment={mixp: 1}", "unknown key 'augment.mixp'; did you mean 'augment.mixup'"),
        ("augment.scale=light", "augment.scale="),
    ],
)
def test_what_is_no_preset_is_one_line(override: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        augment(override)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_of_a_preset_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("augment: ligth", encoding="utf-8")
    with pytest.raises(UsageError, match="did you mean 'light'"):
        config.load(file, ["augment.mixup=0.2"])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 33), (200, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_none_prepares_images_exactly_as_evaluation_does(size: tuple[int, int], channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = Data(img_size=32, crop_pct=0.8)
    picture: Any = Image.fromarray(pixels)
    prepared = training_transform(data, augment("augment=none"), channels)(picture)
    assert torch.equal(finished(prepared, data), cast("Any", evaluation_transform(data, channels)(picture)))


def test_none_leaves_labels_as_they_are() -> None:
    settings = tiny_config("").model_copy(update={"augment": augment("augment=none")})
    task = Classification(settings)
    assert task.mixup is None
    assert isinstance(task.criterion, torch.nn.CrossEntropyLoss)


@pytest.mark.parametrize("preset", ["light", "recipe"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_others_change_images_by_chance(preset: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    transform = training_transform(Data(img_size=32), augment(f"augment={preset}"), channels)
    torch.manual_seed(0)
    one, other = (transform(Image.fromarray(pixels)).image for _ in range(2))
    assert not torch.equal(one, other)
