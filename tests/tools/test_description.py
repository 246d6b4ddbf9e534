"""What an exported file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from acmix.config import Config
from acmix.errors import UsageError
from acmix.tools.description import Description, Preprocessing, config_of, read_description
from acmix.tools.load import preparation_of
from acmix.tools.preparation import preparation, preparation_said_twice, preparation_told, preprocessing_of

HOW = Preprocessing(in_chans=3, img_size=32, mean=(0.5, 0.5, 0.5), std=(1, 1, 1), interpolation="bicubic", crop_pct=0.9)
# a folder's name whose bytes are no UTF-8, as Python keeps it
ODD = "caf\udce9"


def described(**fields: Any) -> Description:
    """One of a classifier."""
    return Description(
        **{"model": "x", "task": "classify", "classes": (), "named": True, "preprocessing": HOW, **fields}
    )


def test_names_come_back_as_they_were() -> None:
    given = described(classes=(ODD, "é", "狐"), config=config_of(Config()))
    texts = given.texts()
    assert all(text.isascii() for text in texts.values())
    again = read_description(texts, Path("model.onnx"))
    assert again == given
    assert again is not None
    assert again.classes == (ODD, "é", "狐")


def test_a_file_tells_all_of_how_pictures_are_prepared() -> None:
    task: dict[str, Any] = {"name": "segment", "align": 32, "num_classes": 2}
    config = Config.model_validate({"task": task, "data": {"background": "#808080", "white": 4095}})
    told = preprocessing_of(preparation(config), config)
    assert (told.align, told.multiple, told.max_size, told.antialias) == (32, 1, 2048, True)
    assert (told.background, told.white) == ((128, 128, 128), 4095)
    config = Config.model_validate({"task": {"name": "detect"}})
    told = preprocessing_of(preparation(config), config)
    assert (told.align, told.multiple, told.max_size, told.antialias) == (1, 32, 1333, False)
    told = preprocessing_of(preparation(Config()), Config())
    assert (told.align, told.multiple, told.max_size, told.antialias) == (1, 1, None, True)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_model_of_timm_is_prepared_for_as_its_source(mode: str) -> None:
    model = nn.Identity()
    cfg = {"input_size": (3, 32, 32), "crop_mode": mode, "crop_pct": 0.9, "mean": (0.2, 0.3, 0.4)}
    source = preparation_of(model_with(model, cfg))
    told = preprocessing_of(source, None)
    assert told.crop_mode == mode
    again = preparation_told(Preprocessing.model_validate_json(told.model_dump_json()))
    assert {key: again[key] for key in source if key != "transform"} == {
        key: source[key] for key in source if key != "transform"
    }
    wide = Image.new("RGB", (90, 41))
    wide.paste((255, 0, 0), (0, 0, 20, 41))
    assert torch.equal(again["transform"](wide), source["transform"](wide))


def model_with(model: Any, cfg: dict[str, Any]) -> nn.Module:
    """A model with the configuration that timm gives to its own."""
    model.pretrained_cfg = cfg
    return model


def test_two_accounts_that_disagree_are_refused() -> None:
    config = Config.model_validate({"data": {"img_size": 64}})
    own = preprocessing_of(preparation(config), config)
    assert preparation_said_twice(own, config, Path("model.onnx"))["img_size"] == 64
    # a file from before there was more
    older = Preprocessing.model_validate(
        own.model_dump(exclude={"align", "antialias", "crop_mode", "background", "white"})
    )
    assert preparation_said_twice(older, config, Path("model.onnx"))["img_size"] == 64
    for change in ({"mean": (9.0, 9.0, 9.0)}, {"img_size": 32}, {"crop_mode": "squash"}, {"white": 255.0}):
        with pytest.raises(UsageError, match=rf"model.onnx says {next(iter(change))} .* in its configuration"):
            preparation_said_twice(own.model_copy(update=change), config, Path("model.onnx"))
