"""What happens to an image and its label map, and that it happens to both alike."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.config import validate
from acmix.data.dataset import seeded
from acmix.data.label_maps import IGNORED
from acmix.data.segmentation_transforms import (
    DRAWS,
    draw_crop,
    evaluation_transform,
    is_varied,
    resize_labels,
    training_transform,
)
from tests.support.label_maps import COLOURS, blocks, classes_of

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def config(hflip: float = 0.5, **task):
    settings = {"name": "segment", "num_classes": 4, "min_size": 48, "max_size": 200, "crop": 48, "photometric": False}
    return validate(
        {"task": settings | task, "augment": {"hflip": hflip}, "data": {"mean": list(MEAN), "std": list(STD)}}
    )


def trained_on(classes: np.ndarray, seed: int, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    with seeded(seed):
        return training_transform(config(**settings))(Image.fromarray(COLOURS[classes]), classes)


def pixels_of(image: torch.Tensor) -> np.ndarray:
    """A normalised image (3, h, w) as RGB (h, w, 3) of 0 to 255."""
    return (
        (255 * (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None])).permute(1, 2, 0).numpy()
    )


def test_an_image_and_its_labels_are_moved_alike():
    for seed in range(20):
        image, target = trained_on(blocks(seed, 60, 90, side=20), seed)
        assert (image.dtype, image.shape, target.dtype, target.shape) == (
            torch.float32,
            (3, 48, 48),
            torch.uint8,
            (48, 48),
        )
        assert type(image) is type(target) is torch.Tensor
        counts = target != IGNORED
        assert counts.float().mean() > 0.2
        alike = classes_of(pixels_of(image)) == target.numpy()
        # but for the borders of squares, where colours mix
        assert alike[counts].mean() > 0.9


def test_labels_of_any_size_lie_on_their_pixels():
    # thin stripes: half a pixel would show
    stripes = np.repeat(np.arange(4, dtype=np.uint8), 8)[None].repeat(32, 0)
    image = Image.fromarray(COLOURS[stripes])
    for width in (8, 11, 16, 47, 64):
        shrunk = np.asarray(image.resize((width, 32), Image.Resampling.BOX))
        labels = resize_labels(stripes, (32, width)).numpy()
        assert (classes_of(shrunk) == labels).mean() > 0.9
        # as wide on the left as on the right
        assert (labels == 0).sum() == (labels == 3).sum()


def test_what_a_crop_has_not_is_the_mean_colour_and_ignored():
    classes = blocks(0, 10, 20, side=5)
    image, target = trained_on(classes, 0, hflip=0.0, scale=[1.0, 1.0], min_size=10, max_size=20)
    assert np.array_equal(target[:10, :20].numpy(), classes)
    assert (target[10:] == IGNORED).all()
    assert (target[:, 20:] == IGNORED).all()
    assert (image[:, 10:] == 0).all()
    assert (image[:, :, 20:] == 0).all()
    assert (image[:, :10, :20] != 0).all()


def test_a_crop_may_have_two_sides():
    image, target = trained_on(blocks(0, 100, 100), 0, crop=[24, 40])
    assert image.shape == (3, 24, 40)
    assert target.shape == (24, 40)


def test_a_flip_has_its_probability():
    classes = blocks(3, 48, 48)
    same = {"scale": [1.0, 1.0], "min_size": 48}
    straight, flipped = (trained_on(classes, 0, hflip=float(p), **same) for p in (0, 1))
    assert torch.equal(straight[1], torch.from_numpy(classes))
    assert torch.equal(flipped[1], straight[1].flip(-1))
    assert torch.equal(flipped[0], straight[0].flip(-1))


def test_colours_change_and_classes_do_not():
    classes = blocks(3, 48, 48)
    same = {"scale": [1.0, 1.0], "min_size": 48, "hflip": 0.0}
    plain = trained_on(classes, 0, **same)
    changed = [trained_on(classes, seed, photometric=True, **same) for seed in range(8)]
    assert all(torch.equal(target, plain[1]) for _, target in changed)
    assert sum(not torch.equal(image, plain[0]) for image, _ in changed) >= 6


def test_the_random_factor_keeps_the_ratio_of_the_sides():
    areas = []
    for seed in range(30):
        _, target = trained_on(blocks(0, 20, 40), seed, min_size=20, max_size=40, crop=80, scale=[0.5, 2.0])
        rows, columns = (target != IGNORED).any(1).sum(), (target != IGNORED).any(0).sum()
        assert abs(int(columns) - 2 * int(rows)) <= 1
        areas.append(int(rows))
    assert 10 <= min(areas) < 14
    assert 34 < max(areas) <= 40


def test_the_longer_side_has_its_limit():
    _, target = trained_on(blocks(0, 10, 100), 0, min_size=40, max_size=40, crop=80, scale=[1.0, 1.0])
    assert (target != IGNORED).any(0).sum() == 40
    assert (target != IGNORED).any(1).sum() == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (1, 5000), (5000, 1)])
def test_an_image_of_one_pixel_a_side_trains_and_evaluates(size):
    classes = blocks(0, *size)
    image, target = trained_on(classes, 0, photometric=True)
    assert image.shape == (3, 48, 48)
    assert image.isfinite().all()
    assert (target != IGNORED).any()
    evaluated, kept = evaluation_transform(config())(Image.fromarray(COLOURS[classes]), classes)
    assert min(evaluated.shape) >= 1
    assert max(evaluated.shape) <= 200
    assert kept.shape == size


def test_an_image_of_ignored_pixels_alone_can_be_trained_on():
    classes = blocks(0)
    with seeded(0):
        _, target = training_transform(config())(Image.fromarray(COLOURS[classes]), np.full_like(classes, IGNORED))
    assert (target == IGNORED).all()


# crops that one class does not fill


def test_a_crop_counts_as_varied_by_the_labelled_pixels():
    labels = torch.full((10, 10), IGNORED, dtype=torch.uint8)
    assert not is_varied(labels, 0.75)
    labels[0, :3] = 5
    assert not is_varied(labels, 0.75)
    labels[0, 3] = 6
    assert is_varied(labels, 0.75)
    labels[0, 4] = 5
    assert not is_varied(labels, 0.75)


def test_crops_that_one_class_fills_are_drawn_again():
    # class 1 at the right end only
    labels = torch.zeros(10, 100, dtype=torch.uint8)
    labels[:, 70:] = 1

    def varied(share: float) -> float:
        with seeded(0):
            found = [draw_crop(labels, (10, 20), share) for _ in range(300)]
        assert all((top, height, width) == (0, 10, 20) and 0 <= left <= 80 for top, left, height, width in found)
        return sum(55 <= left <= 65 for _, left, _, _ in found) / len(found)

    # of 81 places 11 hold at most 15 columns of each class
    assert abs(varied(1.0) - 11 / 81) < 0.06
    assert abs(varied(0.75) - (1 - (70 / 81) ** DRAWS)) < 0.08


def test_a_small_image_is_taken_whole():
    assert draw_crop(torch.zeros(5, 7, dtype=torch.uint8), (10, 20), 0.75) == (0, 0, 5, 7)


# evaluation


def test_evaluation_keeps_the_label_map_as_it_is():
    classes = blocks(0, 30, 50)
    image, target = evaluation_transform(config())(Image.fromarray(COLOURS[classes]), classes)
    assert image.shape == (3, 48, 80)
    assert np.array_equal(target.numpy(), classes)
    assert (classes_of(pixels_of(image)) == resize_labels(classes, (48, 80)).numpy()).mean() > 0.9


def test_evaluation_takes_the_largest_size_and_rounds_sides_up():
    picture = Image.new("RGB", (50, 30))
    assert evaluation_transform(config(min_size=[16, 48])).image(picture).shape == (3, 48, 80)
    assert evaluation_transform(config(align=32)).image(picture).shape == (3, 64, 96)
    # 2048 x 512, as in the recipe
    wide = Image.new("RGB", (500, 20))
    assert evaluation_transform(config(min_size=512, max_size=2048, align=32)).image(wide).shape == (3, 96, 2048)


def test_evaluation_normalises():
    image = evaluation_transform(config()).image(Image.new("RGB", (4, 4), (255, 0, 51)))
    expected = [(value - mean) / std for value, mean, std in zip((1.0, 0.0, 0.2), MEAN, STD, strict=True)]
    torch.testing.assert_close(image[:, 0, 0], torch.tensor(expected))


def test_a_grey_network_gets_one_channel():
    settings = validate({**config(photometric=True).model_dump(), "model": {"in_chans": 1}})
    classes = blocks(0)
    picture = Image.fromarray(COLOURS[classes])
    with seeded(0):
        image, target = training_transform(settings)(picture, classes)
    assert (image.shape, target.shape) == ((1, 48, 48), (48, 48))
    white = evaluation_transform(settings).image(Image.new("RGB", (4, 4), "white"))
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([(1 - sum(MEAN) / 3) / (sum(STD) / 3)]), atol=1e-3, rtol=0)


def test_transforms_go_to_other_processes():
    for transform in (training_transform(config(photometric=True)), evaluation_transform(config())):
        again = pickle.loads(pickle.dumps(transform))
        classes = blocks(0)
        picture = Image.fromarray(COLOURS[classes])
        with seeded(0):
            here = transform(picture, classes)
        with seeded(0):
            there = again(picture, classes)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
