"""Training changes a picture as timm does: the same draws, the same pixels but for the rounding of a resize."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch.nn.functional import avg_pool2d

from acmix.config import Augment, Data
from acmix.data.dataset import open_dataset, seeded
from acmix.data.image import normalisation, read_image
from acmix.data.operations import MENDED, QUICK, use_arrays, use_operations
from acmix.data.training import training_transform
from tests.support.images import lay_down
from tests.support.prepared import finished

STILL: dict[str, Any] = {"auto_augment": None, "color_jitter": None, "random_erasing": 0.0}
# one step of 255, normalised
STEP = 1 / 255 / 0.22


def photograph(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((soft + draw.normal(0, 8, soft.shape)).clip(0, 255).astype(np.uint8))


def timm_transform(data: Data, augment: Augment, in_chans: int) -> Any:
    mean, std = normalisation(data, in_chans)
    transform: Any = create_transform(
        data.img_size,
        is_training=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,  # pyright: ignore[reportArgumentType]
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode=augment.random_erasing_mode,
        re_count=augment.random_erasing_count,
        interpolation=data.interpolation,
        mean=mean,
        std=std,
    )
    use_operations(transform.transforms, MENDED)
    return transform


def both(data: Data, augment: Augment, in_chans: int, seed: int) -> list[tuple[torch.Tensor, tuple[float, ...]]]:
    """timm's image and ours, each with a number of every generator after it."""
    theirs, ours, results = timm_transform(data, augment, in_chans), training_transform(data, augment, in_chans), []
    picture: Any = photograph(seed=seed)
    for ours_too in (False, True):
        with seeded(seed):
            if ours_too:
                image = finished(ours(picture), data)
            else:
                image = theirs(picture if in_chans == 3 else picture.convert("L"))
            results.append((image, (random.random(), np.random.random(), float(torch.rand(())))))
    return results


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "random"])
@pytest.mark.parametrize("in_chans", [3, 1])
@pytest.mark.parametrize(
    "augment", [Augment(**STILL), Augment(**STILL, vflip=0.5, scale=(0.01, 0.1), ratio=(0.2, 5.0))]
)
def test_crops_and_flips_are_timm_s_but_for_two_steps(augment: Augment, in_chans: int, interpolation: Any) -> None:
    data, differences = Data(img_size=48, interpolation=interpolation), []
    for seed in range(12):
        (theirs, theirs_after), (ours, ours_after) = both(data, augment, in_chans, seed)
        assert ours_after == theirs_after
        differences.append(ours - theirs)
    difference = torch.stack(differences) / STEP
    assert difference.abs().max() < 2.1
    # Pillow may resize the columns first and round in between; on average nothing is lighter or darker
    assert difference.abs().mean() < 0.3
    assert difference.mean().abs() < 0.02


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original-mstd0.5", "3a", None])
def test_colours_are_timm_s_but_for_what_they_make_of_a_step(policy: str | None) -> None:
    data, augment = Data(img_size=48), Augment(auto_augment=policy, random_erasing=0.0)
    differences = []
    for seed in range(40):
        (theirs, theirs_after), (ours, ours_after) = both(data, augment, 3, seed)
        assert ours_after == theirs_after
        differences.append(float((ours - theirs).abs().mean()))
    # a threshold may turn one value of 1 % of the pixels into another
    assert np.median(differences) < 0.3 * STEP
    assert max(differences) < 3 * STEP


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_what_is_erased_is_timm_s_to_the_bit(mode: Any) -> None:
    erasing: dict[str, Any] = STILL | {"random_erasing": 0.8, "random_erasing_mode": mode, "random_erasing_count": 3}
    augment = Augment(**erasing)
    for seed in range(20):
        (theirs, theirs_after), (ours, ours_after) = both(Data(img_size=48, interpolation="nearest"), augment, 3, seed)
        assert ours_after == theirs_after
        assert torch.equal(ours, theirs)


def test_images_stay_bytes_until_they_reach_the_device() -> None:
    prepared = training_transform(Data(img_size=48), Augment())(photograph())
    assert prepared.image.dtype == torch.uint8
    assert finished(prepared, Data()).dtype == torch.float32


def test_policies_are_given_the_quick_operations() -> None:
    transform: Any = training_transform(Data(img_size=48), Augment())
    before = [operation.aug_fn for operation in transform.colours[0].ops]
    use_arrays(transform.colours)
    assert [operation.aug_fn for operation in transform.colours[0].ops] == before
    left = [operation.name for operation in transform.colours[0].ops if operation.aug_fn not in QUICK.values()]
    assert left == ["Equalize", "Rotate", "ColorIncreasing"]


@pytest.mark.parametrize("size", [(900, 700), (701, 903), (300, 200)])
def test_draft_decodes_large_files_at_a_part_of_their_size(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    photograph(*size).save(tmp_path / "train" / "a" / "0.jpg", quality=90)
    augment = Augment(**STILL)
    datasets = [
        open_dataset(Data(dir=str(tmp_path), img_size=48, draft=draft), augment, "train") for draft in (False, True)
    ]
    differences, decoded = [], []
    for seed in range(20):
        whole, part = (dataset[0, seed].image.float() for dataset in datasets)
        assert whole.shape == part.shape == (3, 48, 48)
        # grain differs, as the filters do; what lies where does not, but for half a pixel of the result
        differences.append(float((avg_pool2d(whole, 8) - avg_pool2d(part, 8)).abs().mean()))
        with seeded(seed):
            box = training_transform(Data(img_size=48, draft=True), augment).new_box()
            picture = read_image(tmp_path / "train" / "a" / "0.jpg", reduced=box.reduced)
            _, _, width, height = box.on(picture)
        assert min(width, height) >= 48 or box.parts == 1
        assert picture.size == tuple(-(-side // box.parts) for side in size)
        decoded.append(box.parts)
    assert max(differences) < 5
    assert len(set(decoded)) > 1
    assert any(differences)


def test_draft_leaves_turned_pictures_and_other_formats_whole(tmp_path: Path) -> None:
    turned, png = tmp_path / "turned.jpg", tmp_path / "a.png"
    photograph(400, 300).save(png)
    photograph(400, 300).save(turned, quality=90)
    lay_down(turned)
    for file in (turned, png):
        box = training_transform(Data(img_size=16, draft=True), Augment()).new_box()
        assert read_image(file, reduced=box.reduced).size == (400, 300)
        assert box.box is None
