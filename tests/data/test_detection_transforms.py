"""What happens to an image with boxes and masks."""

from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from acmix.config import Augment, Task
from acmix.data.dataset import seeded
from acmix.data.detection_transforms import TrainingTransform, on_image, training_transform


def example(height: int = 60, width: int = 90, boxes: Any = ((10, 20, 40, 50), (60, 5, 88, 30))) -> tuple[Any, dict]:
    """A black image with boxes in white, whose masks are the boxes."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
        image[:, top:bottom, left:right] = 255
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = {
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
        "labels": torch.arange(1, len(boxes) + 1),
        "masks": tv_tensors.Mask(masks),
        "area": torch.zeros(len(boxes)),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
        "image_id": torch.tensor(7),
    }
    return tv_tensors.Image(image), target


def extent(mask: torch.Tensor) -> list[int]:
    """The box around a mask."""
    y, x = torch.nonzero(mask, as_tuple=True)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


def changed(transform: TrainingTransform, seed: int, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    image, target = example(**options)
    with seeded(seed):
        return transform(image, target)


@pytest.mark.parametrize("crop", [None, (20, 40)])
def test_boxes_and_masks_stay_on_their_objects(crop, monkeypatch):
    monkeypatch.setattr("acmix.data.detection_transforms.BEFORE_CROP", (50, 60, 70))
    transform = TrainingTransform(hflip=0.5, min_size=(60, 90, 120), max_size=200, crop=crop)
    sizes, counts = set(), set()
    for seed in range(30):
        image, target = changed(transform, seed)
        assert type(image) is torch.Tensor
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        sizes.add(tuple(image.shape[1:]))
        counts.add(len(target["boxes"]))
        assert {type(value) for value in target.values()} == {torch.Tensor}
        assert target["masks"].shape[1:] == image.shape[1:]
        assert target["masks"].dtype == torch.uint8
        assert target["image_id"] == 7
        for box, mask, area in zip(target["boxes"], target["masks"], target["area"], strict=True):
            # half a pixel each of the two times it is resized, as large as the second makes it; of a sliver, nothing
            assert not mask.any() or (torch.tensor(extent(mask)) - box).abs().max() <= (0.51 if crop is None else 3.5)
            assert mask.any() or (box[2:] - box[:2]).min() < 3.5
            assert area == pytest.approx(float((box[2] - box[0]) * (box[3] - box[1])))
        assert len({len(target[key]) for key in ("boxes", "labels", "masks", "area", "iscrowd")}) == 1
        covered = target["masks"].amax(dim=0) if len(target["masks"]) else torch.zeros(image.shape[1:])
        assert ((image.mean(dim=0) > 0.5) != (covered > 0)).float().mean() < 0.05
    if crop is None:
        assert sizes == {(60, 90), (90, 135), (120, 180)}
        assert counts == {2}
    else:
        assert len(sizes) > 10
        assert counts >= {1, 2}


def test_a_flip_is_drawn():
    transform = TrainingTransform(hflip=0.5, min_size=(60,), max_size=200)
    lefts = {float(changed(transform, seed)[1]["boxes"][0, 0]) for seed in range(20)}
    assert lefts == {10, 50}


def test_no_side_is_above_the_largest():
    transform = TrainingTransform(hflip=0.0, min_size=(800,), max_size=300)
    image, target = changed(transform, 0)
    assert image.shape == (3, 200, 300)
    assert target["boxes"][0].tolist() == pytest.approx([10 / 0.3, 20 / 0.3, 40 / 0.3, 50 / 0.3])


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2)])
def test_an_image_of_an_odd_size_is_changed_too(size):
    transform = TrainingTransform(hflip=1.0, min_size=(40,), max_size=64, crop=(384, 600))
    for seed in range(4):
        image, target = changed(transform, seed, height=size[0], width=size[1], boxes=((0, 0, size[1], size[0]),))
        assert max(image.shape[1:]) <= 64
        assert target["masks"].shape[1:] == image.shape[1:]


def test_an_image_without_objects_is_changed_too():
    transform = TrainingTransform(hflip=1.0, min_size=(40,), max_size=64, crop=(384, 600), photometric=True)
    for seed in range(4):
        image, target = changed(transform, seed, boxes=())
        assert target["boxes"].shape == (0, 4)
        assert target["masks"].shape == (0, *image.shape[1:])


def test_what_a_crop_leaves_no_box_of_is_left_out():
    _, target = example(boxes=((10, 20, 40, 50), (60, 5, 88, 30), (0, 0, 90, 60)))
    boxes = torch.tensor([[-20.0, 10, 0.05, 20], [-20, -10, 400, 20], [3, 59.95, 40, 80]])
    target["boxes"] = tv_tensors.wrap(boxes, like=target["boxes"])  # pyright: ignore[reportCallIssue]
    left = on_image(target)
    assert left["boxes"].tolist() == [[0, 0, 90, 20]]
    assert left["labels"].tolist() == [2]
    assert torch.equal(left["masks"], target["masks"][1:2])
    assert isinstance(left["boxes"], tv_tensors.BoundingBoxes)


def test_colours_change_where_they_shall():
    def colours(photometric: bool) -> torch.Tensor:
        transform = TrainingTransform(hflip=0.0, min_size=(60,), max_size=90, photometric=photometric)
        return torch.stack([changed(transform, seed)[0] for seed in range(5)])

    assert colours(False).unique().tolist() == [0, 1]
    assert len(colours(True).unique()) > 2


def test_settings_reach_the_transform():
    task = Task.model_validate(
        {"name": "detect", "min_size": [480, 800], "max_size": 1000, "crop": [384, 600], "photometric": True}
    )
    found = training_transform(task, Augment(hflip=0.3))
    assert found == TrainingTransform(0.3, (480, 800), 1000, (384, 600), True)
    plain = training_transform(Task.model_validate({"name": "detect"}), Augment())
    assert plain == TrainingTransform(0.5, (800,), 1333, None, False)
