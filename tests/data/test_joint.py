"""What moves an image and its labels alike."""

import colorsys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from acmix.data.dataset import seeded
from acmix.data.image import read_image
from acmix.data.joint import (
    PhotometricDistortion,
    as_image,
    between,
    happens,
    moved,
    normalise,
    one_of,
    saturated,
    scaled_size,
    to_float,
    whole_number,
)
from tests.support.images import lay_down


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_draws_depend_on_the_seed_alone():
    def draws() -> tuple:
        return happens(0.5), between(2.0, 3.0), whole_number(4, 9), one_of("abc")

    with seeded(7):
        first = draws()
    torch.rand(3)
    with seeded(7):
        assert draws() == first


def test_whole_numbers_reach_both_ends():
    assert {whole_number(3, 5) for _ in range(100)} == {3, 4, 5}
    assert all(2.0 <= between(2.0, 2.5) <= 2.5 for _ in range(20))
    assert not any(happens(0.0) for _ in range(20))
    assert all(happens(1.0) for _ in range(20))


def test_an_image_becomes_floats_from_0_to_1():
    image = as_image(picture(5, 3))
    assert image.shape == (3, 3, 5)
    floats = to_float(image)
    assert type(floats) is torch.Tensor
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, torch.as_tensor(image) / 255)
    normal = normalise(floats, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(normal[2], (floats[2] - 0.3) / 0.7)


def test_labels_that_lie_on_the_image_move_with_it_and_others_stay():
    boxes = tv_tensors.BoundingBoxes([[1.0, 2, 3, 4]], format="XYXY", canvas_size=(6, 8))  # type: ignore[call-overload]
    target = {"boxes": boxes, "masks": tv_tensors.Mask(torch.eye(8)[:6, None].mT), "labels": torch.tensor([5])}
    image, labels = moved(F.horizontal_flip, as_image(picture(8, 6)), target)
    assert image.shape == (3, 6, 8)
    assert labels["boxes"].tolist() == [[5, 2, 7, 4]]
    assert labels["labels"] is target["labels"]
    _, labels = moved(partial(F.resize, size=[12, 16]), image, labels)
    assert labels["boxes"].tolist() == [[10, 4, 14, 8]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((500, 1500), (444, 1333)), ((1, 5000), (1, 1333)), ((5000, 1), (1333, 1))],
)
def test_a_resized_image_keeps_its_ratio_and_one_pixel_at_least(size, expected):
    assert scaled_size(*size, shorter=800, longest=1333) == expected


def test_photometric_distortion_depends_on_the_generator_alone_and_leaves_labels():
    image, mask = as_image(picture(8, 8)), tv_tensors.Mask(torch.ones(8, 8, dtype=torch.uint8))
    distort = PhotometricDistortion()
    with seeded(1):
        first, labels = distort(image, mask)
    with seeded(1):
        assert torch.equal(distort(image, mask)[0], first)
    assert not torch.equal(first, image)
    assert isinstance(first, tv_tensors.Image)
    assert first.dtype == torch.uint8
    assert torch.equal(labels, mask)


def test_photometric_distortion_draws_each_change_half_of_the_time_within_its_range():
    distort = PhotometricDistortion(hue=0.1)
    with seeded(1):
        drawn = [distort.make_params([]) for _ in range(400)]
    for key, low, high in (
        ("brightness", -32 / 255, 32 / 255),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -0.1, 0.1),
    ):
        values = [each[key] for each in drawn if each[key] is not None]
        assert 160 < len(values) < 240
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert 160 < sum(each["contrast_first"] for each in drawn) < 240


NOTHING = dict.fromkeys(("brightness", "contrast", "saturation", "hue")) | {"contrast_first": True}


def test_brightness_adds_and_contrast_multiplies():
    image = tv_tensors.Image(torch.tensor([0, 100, 250], dtype=torch.uint8)[:, None, None])

    def changed(**params):
        return PhotometricDistortion().transform(image, NOTHING | params).flatten().tolist()

    assert changed() == [0, 100, 250]
    assert changed(brightness=20 / 255) == [20, 120, 255]
    assert changed(brightness=-20 / 255) == [0, 80, 230]
    assert changed(contrast=0.5, brightness=-20 / 255) == [0, 40, 115]
    assert changed(contrast=1.2) == [0, 120, 255]
    # a third of the circle: red to green
    assert changed(hue=1 / 3) != changed(hue=-1 / 3)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_saturation_is_multiplied_and_cut_at_one(factor):
    image = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    image[:, 0, 0] = 0.0
    image[:, 0, 1] = 0.3
    image[:, 0, 2] = torch.tensor([1.0, 0.0, 0.0])
    found = saturated(image, factor)
    for row in range(5):
        for column in range(6):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
            torch.testing.assert_close(found[:, row, column], torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_picture_is_turned_unless_its_labels_have_the_stored_size(tmp_path):
    path = tmp_path / "photo.jpg"
    picture(40, 20).save(path)
    lay_down(path)  # stored as 20 wide and 40 high
    assert read_image(path).size == (40, 20)
    assert read_image(path, size=(40, 20)).size == (40, 20)
    stored = read_image(path, size=(20, 40))
    assert stored.size == (20, 40)
    assert np.array_equal(np.asarray(stored.transpose(Image.Transpose.ROTATE_270)), np.asarray(read_image(path)))
