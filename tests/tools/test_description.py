"""What an exported file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acmix.config import Config
from acmix.tools.description import Description, Preprocessing, config_of, read_description

HOW = Preprocessing(
    in_chans=3, img_size=32, mean=(0.5, 0.5, 0.5), std=(1, 1, 1), interpolation="bicubic", crop_pct=0.9
)
# a folder's name whose bytes are no UTF-8, as Python keeps it
ODD = "caf\udce9"


def described(**fields: Any) -> Description:
    """One of a classifier."""
    return Description(**{"model": "x", "task": "classify", "classes": (), "named": True, "preprocessing": HOW, **fields})


def test_names_come_back_as_they_were() -> None:
    given = described(classes=(ODD, "é", "狐"), config=config_of(Config()))
    texts = given.texts()
    assert all(text.isascii() for text in texts.values())
    again = read_description(texts, Path("model.onnx"))
    assert again == given
    assert again is not None
    assert again.classes == (ODD, "é", "狐")
