"""Masks as COCO writes them: what pycocotools reads is the mask, pixel by pixel."""

import numpy as np
import pytest
from pycocotools import mask as coco

from acmix.data.outlines import run_lengths, segmentation_of


def read(segmentation, shape):
    """The mask that pycocotools makes of a segmentation."""
    rles = coco.frPyObjects(segmentation, *shape)
    return coco.decode(coco.merge(rles) if isinstance(rles, list) else rles).astype(bool)


@pytest.mark.parametrize("seed", range(20))
def test_pycocotools_reads_the_same_mask(seed):
    rng = np.random.RandomState(seed)
    mask = rng.random_sample((rng.randint(1, 12), rng.randint(1, 12))) < rng.uniform(0.1, 0.9)
    mask[0, 0] = True
    assert (read(segmentation_of(mask), mask.shape) == mask).all()
    assert (read(run_lengths(mask), mask.shape) == mask).all()


def test_a_hole_is_said_by_run_lengths_and_a_mask_without_one_by_polygons():
    mask = np.ones((5, 4), bool)
    assert segmentation_of(mask) == [[4, 0, 4, 5, 0, 5, 0, 0]]
    mask[2, 2] = False
    assert segmentation_of(mask) == {"size": [5, 4], "counts": [0, 12, 1, 7]}


def test_pixels_that_touch_by_a_corner_are_two_polygons():
    assert len(segmentation_of(np.eye(2, dtype=bool))) == 2


@pytest.mark.parametrize("value", [False, True])
def test_run_lengths_cover_the_whole_mask(value):
    assert run_lengths(np.full((2, 3), value))["counts"] == ([0, 6] if value else [6])
