"""The cascade: each stage learns from better boxes, and their answers are averaged."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torchvision.ops import generalized_box_iou

from acmix.heads.cascade import CascadeHeads, Sample
from tests.heads.targets import pictures
from tests.heads.tiny import detector


def stages(head: str = "cascade_mask_rcnn") -> tuple[Any, CascadeHeads]:
    torch.manual_seed(0)
    model = detector(head, channels=8)
    heads = model.roi_heads
    assert isinstance(heads, CascadeHeads)
    return model, heads


def maps(model: Any) -> dict[str, torch.Tensor]:
    return model.backbone(torch.rand(2, 3, 64, 96))


SIZES = [(64, 96), (60, 90)]
BOXES = [torch.tensor([[0.0, 0, 30, 30], [10, 10, 60, 50]]), torch.tensor([[5.0, 5, 20, 40]])]


def test_stages_are_stricter_and_finer_one_after_the_other() -> None:
    _, heads = stages()
    assert [each.proposal_matcher.high_threshold for each in heads.each_stage] == [0.5, 0.6, 0.7]
    assert [each.proposal_matcher.low_threshold for each in heads.each_stage] == [0.5, 0.6, 0.7]
    deviations = [[1 / weight for weight in each.box_coder.weights] for each in heads.each_stage]
    for i, stage in enumerate(deviations):
        assert stage == pytest.approx([0.1 / (i + 1), 0.1 / (i + 1), 0.2 / (i + 1), 0.2 / (i + 1)])


def test_box_heads_have_four_convolutions_with_batch_norms_and_one_linear_layer() -> None:
    _, heads = stages()
    for stage in heads.each_stage:
        kinds = [type(each).__name__ for each in stage.box_head.modules()]
        assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d"), kinds.count("Linear")) == (4, 4, 1)
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(heads)
    assert sum(isinstance(each, torch.nn.SyncBatchNorm) for each in synced.modules()) == 12


def test_scores_are_the_mean_of_the_stages_on_a_regions_way() -> None:
    model, heads = stages("cascade_rcnn")
    model.eval()
    with torch.no_grad():
        features = maps(model)
        boxes, chances = BOXES, []
        for stage in heads.each_stage:
            logits, deltas = stage.predict(features, boxes, SIZES)
            chances.append(logits.softmax(1))
            boxes = stage.improved(logits, deltas, boxes, SIZES)
        mean = sum(chances) / 3
        heads.each_stage[-1].nms_thresh = 1.0
        heads.each_stage[-1].score_thresh = 0.0
        found = heads.detections(features, BOXES, SIZES)
    expected = mean[:2, 1:].flatten().sort(descending=True).values  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(found[0]["scores"], expected[: len(found[0]["scores"])], rtol=1e-5, atol=1e-6)


def test_masks_are_the_mean_of_the_stages_on_the_last_boxes() -> None:
    model, heads = stages()
    model.eval()
    with torch.no_grad():
        features = maps(model)
        results = [dict(boxes=each, labels=torch.ones(len(each), dtype=torch.int64)) for each in BOXES]
        found = heads.masks(features, results, SIZES)
        each = [stage.mask_logits(features, BOXES, SIZES)[:, 1].sigmoid() for stage in heads.each_stage]
    torch.testing.assert_close(torch.cat([*found])[:, 0], sum(each) / 3)
    assert [len(masks) for masks in found] == [2, 1]


def test_boxes_move_by_their_label_and_else_by_the_likeliest_class() -> None:
    _, heads = stages()
    stage = heads.each_stage[0]
    # the likeliest class is 2; class 1 moves by a width to the right, class 2 not at all
    logits = torch.tensor([[9.0, 0, 1], [9, 0, 1], [9, 0, 1]])
    deltas = torch.zeros(3, 3, 4)
    deltas[:, 1, 0] = stage.box_coder.weights[0]
    moved = stage.improved(logits, deltas, BOXES, SIZES, [torch.tensor([1, 0]), torch.tensor([2])])
    torch.testing.assert_close(moved[0], torch.tensor([[30.0, 0, 60, 30], [10, 10, 60, 50]]))
    torch.testing.assert_close(moved[1], BOXES[1])
    # and stay in the image
    deltas[:, 1, 0] *= 4
    moved = stage.improved(logits, deltas, BOXES, SIZES, [torch.tensor([1, 1]), torch.tensor([0])])
    assert moved[0].max() <= 96


def test_losses_are_cross_entropy_and_ten_times_giou_of_the_objects() -> None:
    _, heads = stages()
    stage = heads.each_stage[1]
    torch.manual_seed(0)
    logits, deltas = torch.randn(3, 3), torch.randn(3, 3, 4)
    labels = [torch.tensor([2, 0]), torch.tensor([1])]
    objects = [torch.tensor([1, 0]), torch.tensor([0])]
    sample = Sample(BOXES, labels, objects, [], [torch.tensor([0]), torch.tensor([0])])
    targets = [dict(boxes=torch.tensor([[0.0, 0, 9, 9], [1, 2, 33, 28]])), dict(boxes=torch.tensor([[4.0, 4, 22, 44]]))]
    found = stage.losses(logits, deltas, sample, targets)
    moved = torch.cat([stage.box_coder.decode_single(deltas[i, c][None], b) for i, c, b in picked()])
    wanted = torch.stack([targets[0]["boxes"][1], targets[1]["boxes"][0]])
    by_hand = 10 * (1 - generalized_box_iou(moved, wanted).diagonal()).sum() / 3
    torch.testing.assert_close(found["box_reg"], by_hand)
    torch.testing.assert_close(found["classifier"], -logits.log_softmax(1)[torch.arange(3), torch.cat(labels)].mean())


def picked() -> list[tuple[int, int, torch.Tensor]]:
    """Region, class and box of the two regions that are objects."""
    return [(0, 2, BOXES[0][:1]), (2, 1, BOXES[1])]


def test_objects_own_boxes_are_added_once_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    model, heads = stages("cascade_rcnn")
    seen: list[tuple[list[int], list[int]]] = []
    for stage in heads.each_stage:
        own = stage.sample

        def watched(boxes: Any, targets: Any, own: Any = own) -> Sample:
            sample = own(boxes, targets)
            seen.append(([len(each) for each in boxes], [int(each.sum()) for each in sample.is_given]))
            return sample

        monkeypatch.setattr(stage, "sample", watched)
    images, targets = pictures((64, 96), (60, 90))
    model(images, targets)
    for (_, given), (after, _) in pairwise(seen):
        # as many regions as were chosen, without the objects' own
        assert all(count <= 32 - own for count, own in zip(after, given, strict=True))
    assert all(max(given) <= 2 for _, given in seen)


def test_no_gradient_flows_into_the_boxes_of_a_stage() -> None:
    model, heads = stages("cascade_rcnn")
    images, targets = pictures((64, 96), (60, 90))
    losses = model(images, targets)
    torch.stack([losses["stage1_classifier"], losses["stage1_box_reg"]]).sum().backward()
    assert all(each.grad is None for each in heads.each_stage[0].parameters())
    assert all(each.grad is not None for each in heads.each_stage[1].parameters())


def test_stages_count_one_half_and_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, heads = stages("cascade_rcnn")
    for stage in heads.each_stage:
        monkeypatch.setattr(stage, "losses", lambda *_: dict(classifier=torch.ones(())))
    losses = model(*pictures((64, 96)))
    assert [losses[f"stage{i}_classifier"].item() for i in range(3)] == [1, 0.5, 0.25]


def test_images_without_proposals_have_no_detections() -> None:
    model, heads = stages()
    model.eval()
    with torch.no_grad():
        found = heads.detections(maps(model), [torch.zeros(0, 4), torch.zeros(0, 4)], SIZES)
    assert [len(each["boxes"]) for each in found] == [0, 0]
    assert found[0]["masks"].shape == (0, 1, 28, 28)
