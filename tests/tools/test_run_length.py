"""Masks as text are what pycocotools writes, to the letter."""

from __future__ import annotations

import numpy as np
import pytest

from acmix.data.masks import mask_of_runs, run_lengths
from acmix.tools.run_length import mask_to_text

oracle = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_masks_are_written_as_pycocotools_writes_them_and_read_again(share: float) -> None:
    draws = np.random.default_rng(round(100 * share))
    for height, width in ((1, 1), (1, 5000), (5000, 1), (37, 53), (64, 64)):
        mask = draws.random((height, width)) < share
        text = mask_to_text(mask)
        assert text == oracle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
        assert np.array_equal(mask_of_runs(run_lengths(text, height, width), height, width), mask)


def test_long_runs_take_several_letters() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1500:, 2000:] = 1
    assert mask_to_text(mask) == oracle.encode(np.asfortranarray(mask))["counts"].decode()
