"""Operations on arrays give Pillow's pixels, and draw what timm's draw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from acmix.data import operations
from acmix.data.operations import QUICK

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
# what each is asked for at a magnitude of up to 20, and what shows a picture's border
FACTORS = (-0.6, -0.3, -0.013, 0.0, 0.1, 0.27, 0.5, 1.7)
PIXELS = (-500.0, -101.25, -7.5, 0.0, 0.4, 3.0, 99.9, 224.0)
MOVES = [(auto_augment.shear_x, FACTORS), (auto_augment.shear_y, FACTORS)] + [
    (getattr(auto_augment, f"translate_{axis}_{kind}"), amounts)
    for axis in "xy"
    for kind, amounts in (("rel", FACTORS), ("abs", PIXELS))
]
MODES = {"RGB": (124, 116, 104), "L": (117,)}
SIZES = [(64, 50), (31, 89), (7, 1), (1, 5), (1, 1)]
ENHANCED = (-0.5, 0.0, 0.1, 0.55, 1.0, 1.9, 7.0)
# what is Pillow's to the bit, with what each is asked for at most and beyond
EXACT: list[tuple[Any, tuple[tuple[Any, ...], ...]]] = [
    (auto_augment.invert, ((),)),
    (auto_augment.auto_contrast, ((),)),
    (auto_augment.posterize, tuple((bits,) for bits in (1, 4, 7, 8, 9))),
    (auto_augment.solarize, tuple((threshold,) for threshold in (-3, 0, 1, 26, 128, 255, 256, 300))),
    (auto_augment.solarize_add, ((0,), (1,), (99,), (128,), (255,), (40, 0), (40, 256))),
    *((each, tuple((factor,) for factor in ENHANCED)) for each in (auto_augment.brightness, auto_augment.contrast)),
]


def noise(mode: str, width: int, height: int) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, shape, dtype=np.uint8))


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(("theirs", "amounts"), MOVES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_rows_and_columns_move_as_pillow_moves_them(
    size: tuple[int, int], mode: str, theirs: Any, amounts: tuple[float, ...]
) -> None:
    image, off = noise(mode, *size), []
    for amount in amounts:
        options: Any = {"resample": BICUBIC, "fillcolor": MODES[mode]}
        there, here = (values(move(image, amount, **options)) for move in (theirs, QUICK[theirs]))
        assert there.shape == here.shape
        assert np.abs(there - here).max() <= 1
        off.append((there != here).mean())
    assert np.mean(off) < 1e-3


def test_another_filter_is_pillow_s_own_and_drawn_as_timm_draws_it() -> None:
    image = noise("RGB", 40, 30)
    for theirs in (auto_augment.shear_x, auto_augment.translate_y_abs):
        for seed in range(8):
            drawn = []
            for move in (theirs, QUICK[theirs]):
                random.seed(seed)
                moved = move(image, 0.3, resample=(BILINEAR, BICUBIC), fillcolor=(1, 2, 3))
                drawn.append((values(moved), random.random()))
            assert np.abs(drawn[0][0] - drawn[1][0]).max() <= 1
            assert drawn[0][1] == drawn[1][1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("colour", [0, 77, 255])
def test_a_plain_picture_stays_plain(colour: int, mode: str) -> None:
    shape = (53, 47, 3) if mode == "RGB" else (53, 47)
    plain = np.full(shape, colour, dtype=np.uint8)
    for theirs, amounts in MOVES:
        for amount in amounts:
            moved = QUICK[theirs](plain, amount, resample=BICUBIC, fillcolor=(colour,) * len(MODES[mode]))
            assert np.array_equal(moved, plain)


@pytest.mark.parametrize(("theirs", "amounts"), EXACT)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_values_become_what_pillow_makes_of_them(
    size: tuple[int, int], mode: str, theirs: Any, amounts: tuple[tuple[Any, ...], ...]
) -> None:
    full = noise(mode, *size)
    for image in (full, full.point([30 + value // 3 for value in range(256)] * len(MODES[mode]))):
        for amount in amounts:
            there, pixels = np.asarray(theirs(image, *amount)), np.array(image)
            here = QUICK[theirs](pixels, *amount)
            assert here.dtype == np.uint8
            assert np.array_equal(here, there)
            assert np.array_equal(QUICK[theirs](image, *amount), there)
            assert np.array_equal(pixels, np.asarray(image))  # unchanged


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(64, 50), (3, 3), (2, 9), (1, 1)])
@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
def test_sharpness_is_pillow_s_to_the_bit(factor: float, size: tuple[int, int], mode: str) -> None:
    image = noise(mode, *size)
    assert np.array_equal(values(operations.sharpness(image, factor)), values(auto_augment.sharpness(image, factor)))


def test_every_policy_is_given_them() -> None:
    for policy in ("rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original", "v0r", "3a"):
        make = auto_augment.augment_and_mix_transform if policy.startswith("augmix") else None
        make = make or (
            auto_augment.rand_augment_transform if policy.startswith("rand") else auto_augment.auto_augment_transform
        )
        step: Any = make(policy, {"translate_const": 100})
        operations.use_operations([step], operations.QUICK)
        assert not {each.aug_fn for each in operations.operations_of([step])} & QUICK.keys()


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m20-mmax20-n4", "original", "v0r", "3a"])
@pytest.mark.parametrize("mode", MODES)
def test_a_policy_makes_of_pixels_what_it_makes_of_a_picture(mode: str, policy: str) -> None:
    make = auto_augment.rand_augment_transform if policy.startswith("rand") else auto_augment.auto_augment_transform
    step: Any = make(policy, {"translate_const": 100, "img_mean": MODES[mode]})
    image = noise(mode, 43, 29)
    operations.use_arrays([step])
    assert operations.takes_pixels(step)
    for seed in range(60):
        results = []
        for shown in (image, np.array(image)):
            random.seed(seed)
            np.random.seed(seed)
            results.append((step(shown), random.random(), np.random.random()))
        (picture, *after), (pixels, *after_too) = results
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(picture, pixels)
        assert after == after_too


def test_augmix_is_given_pictures() -> None:
    step = auto_augment.augment_and_mix_transform("augmix-m5-w4-d2", {"translate_const": 100})
    operations.use_arrays([step])
    assert not operations.takes_pixels(step)
    assert isinstance(step(noise("RGB", 43, 29)), Image.Image)


@pytest.mark.parametrize("bits", [0, -4])
def test_no_bits_or_fewer_are_a_black_picture(bits: int) -> None:
    # "rand-m20-mmax20-inc1" asks for fewer than none
    image = noise("RGB", 9, 7)
    assert not values(operations.posterize(image, bits)).any()
    assert not operations.posterize(np.array(image), bits).any()
