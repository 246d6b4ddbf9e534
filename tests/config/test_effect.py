"""Settings that a task reads nothing of."""

from __future__ import annotations

from pathlib import Path

import pytest

from acmix.config import Augment, Config, dump, load, shipped, validate, without_effect


@pytest.mark.parametrize("name", shipped())
def test_no_shipped_configuration_sets_anything_in_vain(name: str) -> None:
    assert without_effect(load(name)) == []


def test_what_classification_alone_reads_is_named() -> None:
    tree = {
        "task": {"name": "segment"},
        "model": {"num_classes": 150, "in_chans": 1},
        # auto means not set
        "data": {"img_size": 64, "crop_pct": "auto", "mean": [0.5]},
        "augment": {"mixup": 0.5, "hflip": 0.0},
    }
    said = "without effect, as task.name is segment: model.num_classes, data.img_size, augment.mixup"
    assert without_effect(validate(tree)) == [said]
    assert without_effect(validate({**tree, "task": {}})) == []


def test_a_default_that_was_typed_is_named_too() -> None:
    config = validate({"task": {"name": "detect"}, "augment": {"auto_augment": Augment().auto_augment}})
    assert without_effect(config) == ["without effect, as task.name is detect: augment.auto_augment"]


def test_a_run_s_own_settings_name_what_was_changed_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(load("coco/mask_rcnn_swin_tiny")))
    assert load(file).augment.model_fields_set == Augment.model_fields.keys()
    assert without_effect(load(file)) == []
    assert without_effect(load(file, ["augment.cutmix=0.1"])) == [
        "without effect, as task.name is detect: augment.cutmix"
    ]


def test_a_default_configuration_has_effect() -> None:
    assert without_effect(Config()) == []
