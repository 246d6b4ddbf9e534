"""Outlines as masks, against pycocotools."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmix.data.masks import BrokenOutline, mask_of_polygons, mask_of_runs, run_lengths, runs_of_mask
from tests.support.coco import oracle_mask

oracle = pytest.importorskip("pycocotools.mask")


def found(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return mask_of_polygons([np.array(polygon, dtype=float) for polygon in polygons], height, width)


# whole, half and tenth pixels meet the rounding's corners
coordinate = st.one_of(st.integers(-20, 60).map(lambda x: x / 2), st.integers(-100, 300).map(lambda x: x / 10))
polygon = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12).map(
    lambda points: [value for point in points for value in point]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(10, 30), st.integers(10, 30))
def test_polygons_are_filled_as_pycocotools_fills_them(polygons, height, width):
    mask = found(polygons, height, width)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, oracle_mask(polygons, height, width))


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1, 5000), (5000, 1), (1, 1)])
def test_polygons_of_any_size_of_image(height, width):
    angle = np.linspace(0, 2 * np.pi, 50)
    points = np.stack([(0.5 + 0.4 * np.cos(angle)) * width, (0.5 + 0.6 * np.sin(angle)) * height], axis=1)
    polygons = [points.ravel().tolist(), [0.0, 0.0, width, 0.0, width, height / 3]]
    assert np.array_equal(found(polygons, height, width), oracle_mask(polygons, height, width))


def test_long_outlines_are_walked_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    polygons = [rng.uniform(-5, 45, 400).tolist()]
    whole = found(polygons, 40, 40)
    monkeypatch.setattr("acmix.data.masks.POINTS", 100)
    assert np.array_equal(found(polygons, 40, 40), whole)
    assert np.array_equal(whole, oracle_mask(polygons, 40, 40))


def test_points_far_away_take_no_memory():
    tracemalloc.start()
    mask = found([[-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]], 20, 20)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert mask.all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_run_lengths_are_read_as_pycocotools_writes_them(height, width, share, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    written = oracle.encode(np.asfortranarray(mask))["counts"]
    for counts in (written, written.decode()):
        runs = run_lengths(counts, height, width)
        assert np.array_equal(mask_of_runs(runs, height, width), mask)
        assert np.array_equal(run_lengths(runs.tolist(), height, width), runs)
        assert np.array_equal(runs_of_mask(mask), runs)


def test_run_lengths_of_a_large_image():
    mask = np.zeros((3000, 2000), dtype=np.uint8)
    mask[10:2990, 1:1999:7] = 1
    runs = run_lengths(oracle.encode(np.asfortranarray(mask))["counts"], 3000, 2000)
    assert np.array_equal(mask_of_runs(runs, 3000, 2000), mask)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([3, 4], "run lengths for 7 pixels, not for 4×3"),
        ([], "run lengths for 0 pixels"),
        ([20, -8], "negative run lengths"),
        ([12.0], "no whole numbers"),
        (["12"], "no whole numbers"),
        ([10**30], "no whole numbers"),
        ([2**62, 2**62, 2**62], "run lengths for 13835058055282163712 pixels"),
        (12, "neither a list nor text"),
        (None, "neither a list nor text"),
        ("", "cut off"),
        ("<P", "cut off"),
        ("Ünfug", "no meaning"),
        ("12 3\x00", "no meaning"),
        ("~~~~", "no meaning"),
        (b"\xff\xfe", "no meaning"),
        ("oooooooooooo0", "above any image's size"),
    ],
)
def test_broken_run_lengths_are_refused(counts, reason):
    with pytest.raises(BrokenOutline, match=reason):
        run_lengths(counts, 3, 4)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_no_text_does_harm(text):
    try:
        runs = run_lengths(text, 4, 5)
    except BrokenOutline:
        return
    assert mask_of_runs(runs, 4, 5).shape == (4, 5)
