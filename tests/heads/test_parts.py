"""torchvision's parts as they are used here, the batch they read, and what is refused before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from acmix.errors import UsageError
from acmix.heads.inputs import check_images, check_targets
from acmix.heads.parts import Anchors, ProposalHead, Proposals, RetinaHead, region_pool
from acmix.heads.transform import Transform, resized_masks, size_within
from tests.heads.targets import picture, pictures
from tests.heads.tiny import detector

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_anchors_stand_at_exact_strides_in_float32() -> None:
    anchors = Anchors([[32], [256]], [8, 64], ratios=(1.0,))
    # 7 columns of stride 64 for 416 pixels: 416 // 7 would be 59
    images = ImageList(torch.zeros(1, 3, 800, 416), [(800, 416)])
    maps = [torch.zeros(1, 4, 100, 52, dtype=torch.bfloat16), torch.zeros(1, 4, 13, 7, dtype=torch.bfloat16)]
    (boxes,) = anchors(images, maps)
    assert boxes.dtype == torch.float32
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres[52 * 100 - 1].tolist() == [51 * 8, 99 * 8]
    assert centres[-1].tolist() == [6 * 64, 12 * 64]


@pytest.mark.parametrize(("head", "smallest"), [("retinanet", 4 * 8), ("faster_rcnn", 8 * 4)])
def test_anchors_have_the_published_sizes_unless_asked(head: str, smallest: float) -> None:
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, smallest),
        ({"anchor_scale": 1.5}, 1.5 * (8 if head == "retinanet" else 4)),
    ]
    for arguments, expected in cases:
        anchors = detector(head, **arguments).anchors
        assert anchors is not None
        anchors.set_cell_anchors(torch.float32, torch.device("cpu"))
        # the cells are around their centre; torchvision rounds them to whole pixels
        cells = torch.cat([each[:, 2:] - each[:, :2] for each in anchors.cell_anchors])
        assert torch.allclose(anchors.shapes(), cells, atol=1, rtol=0)
        assert anchors.shapes().prod(1).sqrt().min().item() == pytest.approx(expected)
    assert detector("fcos").anchors is None


def test_regions_are_cut_at_the_same_strides_whatever_came_first() -> None:
    maps = {"0": torch.rand(1, 2, 8, 8), "1": torch.rand(1, 2, 4, 4)}
    box = [torch.tensor([[2.0, 3, 20, 30]])]
    fresh, used = region_pool([4, 8], 3), region_pool([4, 8], 3)
    # an image one pixel high, padded to 32
    used({"0": torch.rand(1, 2, 8, 8), "1": torch.rand(1, 2, 4, 4)}, box, [(1, 32)])
    assert torch.equal(fresh(maps, box, [(32, 32)]), used(maps, box, [(32, 32)]))


def test_regions_of_half_precision_maps_keep_their_exact_boxes() -> None:
    maps = {"0": torch.rand(1, 2, 80, 8), "1": torch.rand(1, 2, 40, 4)}
    # in bfloat16 these sides would be multiples of 4
    box = [torch.tensor([[2.0, 301, 21, 318]])]
    half = {name: each.bfloat16() for name, each in maps.items()}
    exact = region_pool([8, 16], 3)({name: each.float() for name, each in half.items()}, box, [(640, 64)])
    found = region_pool([8, 16], 3)(half, box, [(640, 64)])
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


def test_weights_of_a_narrow_retinanet_are_drawn_wider() -> None:
    for channels, expected in ((256, 0.01), (64, 0.02)):
        head = RetinaHead(channels, 3, 2)
        for name, weight in head.named_parameters():
            if name.endswith("weight") and weight.numel() > 20_000:
                assert weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_an_image_always_has_a_proposal_in_training() -> None:
    proposals = Proposals(
        Anchors([[32]], [8], ratios=(1.0,)),
        ProposalHead(4, 1),
        *(0.7, 0.3, 256, 0.5),
        *(dict(training=10, testing=10), dict(training=10, testing=10), 0.7),
    )
    outside = torch.full((1, 5, 4), -9.0)
    boxes, scores = proposals.filter_proposals(outside, torch.zeros(5, 1), [(20, 30)], [5])
    assert boxes[0].tolist() == [[0, 0, 30, 20]]
    assert len(scores[0]) == 1
    boxes, _ = proposals.eval().filter_proposals(outside, torch.zeros(5, 1), [(20, 30)], [5])
    assert len(boxes[0]) == 0


@pytest.mark.parametrize(
    ("size", "result"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((400, 1333), (400, 1333)),
        ((500, 2000), (333, 1333)),
        ((1, 5000), (1, 1333)),
        ((5000, 1), (1333, 1)),
        ((1, 1), (800, 800)),
    ],
)
def test_sizes_are_scaled_within_two_limits(size: tuple[int, int], result: tuple[int, int]) -> None:
    assert size_within(size, 800, 1333) == result


def test_a_batch_is_normalised_and_padded_to_a_multiple_of_32() -> None:
    transform = Transform(40, 100, mean=MEAN, std=STD).eval()
    images, _ = pictures((20, 30), (80, 10))
    batch, _ = transform(images)
    assert batch.image_sizes == [(40, 60), (100, 13)]
    assert batch.tensors.shape == (2, 3, 128, 64)
    assert batch.tensors[0, :, :40, :60].min() < -1
    assert (batch.tensors[0, :, 40:] == 0).all()


def test_boxes_and_masks_are_resized_with_their_image() -> None:
    transform = Transform(40, 100, mean=MEAN, std=STD)
    image, target = picture(20, 30, 2)
    _, targets = transform([image], [target])
    assert targets is not None
    torch.testing.assert_close(targets[0]["boxes"], target["boxes"] * 2)
    assert targets[0]["masks"].shape == (2, 40, 60)
    assert targets[0]["masks"].dtype == torch.uint8
    assert torch.equal(targets[0]["masks"][:, ::2, ::2], target["masks"])
    # the caller's target is as it was
    assert target["masks"].shape == (2, 20, 30)


def test_no_masks_stay_no_masks() -> None:
    assert resized_masks(torch.zeros(0, 5, 6, dtype=torch.uint8), (10, 12)).shape == (0, 10, 12)


def test_data_that_is_resized_already_is_left_as_it_is() -> None:
    transform = Transform((40, 60), 100, mean=MEAN, std=STD)
    image, target = picture(20, 30, 2)
    assert transform.resizes
    transform.resize_in_training = False
    assert not transform.resizes
    batch, targets = transform([image], [target])
    assert batch.image_sizes == [(20, 30)]
    assert targets is not None
    assert torch.equal(targets[0]["boxes"], target["boxes"])
    # evaluation takes the largest
    assert transform.eval().resizes
    assert transform([image])[0].image_sizes == [(60, 90)]


def test_training_draws_one_of_several_sizes() -> None:
    transform = Transform((60, 40), 100, mean=MEAN, std=STD)
    torch.manual_seed(0)
    sides = {transform([torch.rand(3, 20, 30)])[0].image_sizes[0][0] for _ in range(20)}
    assert sides == {40, 60}


def test_boxes_go_back_to_the_pictures_own_pixels() -> None:
    model = detector("mask_rcnn").eval()
    image, _ = picture(30, 40, 1)
    with torch.no_grad():
        small, large = model([image]), model([image.repeat_interleave(3, 1).repeat_interleave(3, 2)])
    assert small[0]["boxes"].max() <= 40
    assert large[0]["boxes"].max() > 40
    assert large[0]["masks"].shape[2:] == (90, 120)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "no images"),
        ([torch.rand(1, 3, 8, 8)], "image 0 is (1, 3, 8, 8); expected a tensor (3, h, w)"),
        ([torch.rand(3, 8, 8), torch.rand(1, 8, 8)], "image 1 is (1, 8, 8)"),
        ([torch.rand(3, 0, 8)], "image 0 is (3, 0, 8)"),
        (["a.jpg"], "image 0 is str"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "image 0 is torch.uint8; expected floating point in 0 … 1"),
    ],
)
def test_wrong_images_are_refused(images: list[Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        check_images(images, 3)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(boxes=torch.tensor([[3.0, 3, 3, 9]])), "target 0 has a box without an area, [3.0, 3.0, 3.0, 9.0]"),
        (dict(boxes=torch.tensor([[9.0, 3, 3, 9]])), "target 0 has a box without an area"),
        (dict(boxes=torch.tensor([[float("nan"), 3, 3, 9]])), "target 0 has a box without an area"),
        (dict(boxes=torch.tensor([[0.0, 3, float("inf"), 9]])), "target 0 has a box without an area"),
        (dict(boxes=torch.zeros(1, 5)), "boxes of target 0 are torch.float32 (1, 5); expected float32 (n, 4)"),
        (dict(boxes=torch.zeros(1, 4, dtype=torch.int64)), "boxes of target 0 are torch.int64"),
        (dict(labels=torch.tensor([0])), "target 0 has label 0; expected 1 to 2: 0 is the background"),
        (dict(labels=torch.tensor([3])), "target 0 has label 3; expected 1 to 2"),
        (dict(labels=torch.tensor([1, 1])), "labels of target 0 are torch.int64 (2,); expected int64 (1,)"),
        (dict(labels=torch.tensor([1.0])), "labels of target 0 are torch.float32"),
        (dict(masks=torch.zeros(1, 9, 9)), "masks of target 0 are (1, 9, 9); expected (1, 16, 20)"),
        (dict(masks=None), "target 0 has no 'masks'; it has boxes, labels"),
    ],
)
def test_wrong_targets_are_refused(change: dict[str, Any], said: str) -> None:
    image, target = picture(16, 20, 1)
    target = {key: value for key, value in {**target, **change}.items() if value is not None}
    with pytest.raises(UsageError) as error:
        check_targets([target], [image], 2, masks=True)
    assert said in str(error.value)


def test_targets_are_wanted_in_training_alone() -> None:
    model = detector("mask_rcnn")
    image, target = picture(16, 20, 1)
    with pytest.raises(UsageError, match="that trains needs targets"):
        model([image])
    with pytest.raises(UsageError, match="1 images and 2 targets"):
        model([image], [target, target])
    with torch.no_grad():
        assert len(model.eval()([image])) == 1
