"""Scikit-learn's handwritten digits as an image folder."""

import sys

import numpy as np
import pytest
from PIL import Image

from acmix.data.digits import write_digits
from acmix.errors import UsageError

PARTS = ("train", "val")


@pytest.mark.slow
def test_the_digits_are_written_once_and_whole(tmp_path):
    root = write_digits(tmp_path / "digits")
    train, val = (sorted(path.relative_to(root / part) for path in (root / part).rglob("*.png")) for part in PARTS)
    assert len(train) + len(val) == 1797
    assert {path.name for path in train}.isdisjoint(path.name for path in val)
    for digit in range(10):
        share = [sum(path.parent.name == str(digit) for path in paths) for paths in (train, val)]
        assert share[1] == sum(share) // 5
    pixels = np.stack([np.asarray(Image.open(root / "train" / path)) for path in train[:50]])
    assert pixels.shape == (50, 32, 32)
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    before = (root / "train" / train[0]).stat().st_mtime_ns
    write_digits(root)
    assert (root / "train" / train[0]).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_digits_do_not_overwrite_another_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files than the complete digits"):
        write_digits(tmp_path)


def test_without_scikit_learn_the_digits_name_the_extra(tmp_path, monkeypatch):
    # Python's own way to say that a package cannot be found
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"run pip install -e .*\[demo\]"):
        write_digits(tmp_path / "digits")
