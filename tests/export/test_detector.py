"""A detector as one graph of a batch finds what torchvision's code finds image by image."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, nms

from acmix.errors import UsageError
from acmix.export.compare import check, of_detections, of_places, seeing_all
from acmix.export.detector import DetectorGraph, OpenGroupNorm, best
from acmix.export.forms import answers, prepared
from acmix.export.suppression import suppressed
from acmix.export.write import quiet
from acmix.heads import create_detector
from acmix.heads.detectors import DETECTORS
from acmix.layers.fold import fold
from tests.heads.tiny import RESNET, SWIN, detector


def sure(model: Any) -> Any:
    """The same detector with scores that are far apart, as after training."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.split(".")[0] != "backbone" and value.ndim > 1:
                nn.init.kaiming_normal_(value)
                if "bbox" in name:
                    value.div_(10)
            elif name.endswith("cls_logits.bias"):
                value.fill_(-1)
    return model.eval()


@pytest.mark.parametrize("backbone", [SWIN, RESNET])
@pytest.mark.parametrize("head", DETECTORS)
def test_it_finds_what_the_detector_finds(head: str, backbone: str) -> None:
    torch.manual_seed(0)
    model = sure(detector(head, backbone))
    graph = DetectorGraph(fold(model))
    found = 0
    for inputs in prepared([(3, 64, 80), (1, 33, 20)], 3, "detect"):
        with torch.no_grad():
            outputs = graph(*inputs)
        assert [len(each) for each in outputs] == [len(inputs[0])] * len(outputs)
        told = of_detections((0, 0, 0), answers(model, "detect", inputs), outputs, inputs[1], 1e-4)
        assert told.lost == 0
        assert told.largest < 1e-4
        found += told.objects
    assert found > 10


def test_an_image_without_objects_has_none() -> None:
    torch.manual_seed(0)
    for head in ("retinanet", "mask_rcnn"):
        model = detector(head, score_threshold=0.999).eval()
        [inputs] = prepared([(2, 64, 64)], 3, "detect")
        with torch.no_grad():
            boxes, scores, labels, *masks = DetectorGraph(fold(model))(*inputs)
        assert not boxes.any() and not scores.any() and not labels.any()  # noqa: PT018
        assert all(not each.any() and each.shape[:2] == (2, 10) for each in masks)


def test_objects_that_the_model_does_not_find_count() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    boxes, scores, labels = torch.rand(1, 4, 4) * 60, torch.full((1, 4), 0.9), torch.tensor([[1, 2, 1, 0]])
    sizes = torch.tensor([[64.0, 64.0]])
    told = of_detections((1, 64, 64), [nothing], [boxes, scores, labels], sizes, 1e-3)
    assert (told.objects, told.lost, told.extra) == (0, 0, 3)
    with pytest.raises(UsageError, match="and 3 others"):
        check(told, "model.onnx", "fp32")
    same = {"boxes": boxes[0, :3], "scores": scores[0, :3], "labels": labels[0, :3]}
    told = of_detections((1, 64, 64), [same], [boxes, scores, labels], sizes, 1e-3)
    assert (told.objects, told.lost, told.extra) == (3, 0, 0)


def test_a_copy_that_keeps_every_score_finds_something() -> None:
    torch.manual_seed(0)
    for head in ("retinanet", "cascade_mask_rcnn"):
        model = detector(head, score_threshold=0.999).eval()
        [inputs] = prepared([(1, 64, 64)], 3, "detect")
        before, after = (answers(each, "detect", inputs)[0]["scores"] for each in (model, seeing_all(model)))
        assert len(before) == 0 < len(after)


@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_without_suppression_every_place_is_told(head: str) -> None:
    torch.manual_seed(0)
    model = sure(detector(head))
    [inputs] = prepared([(2, 64, 64)], 3, "detect")
    with torch.no_grad():
        boxes, scores = DetectorGraph(fold(model), suppress=False)(*inputs)
        maps = model.backbone(inputs[0])
        outputs = model.head(list(maps.values()))
    expected = outputs["cls_logits"].sigmoid()[..., 1:]
    if head == "fcos":
        expected = (expected * outputs["bbox_ctrness"].sigmoid()).sqrt()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert boxes.shape == (*scores.shape[:2], 4)
    assert of_places(model, inputs, (boxes, scores)) < 1e-4
    assert of_places(model, inputs, (boxes * 1.5, scores)) > 1e-2
    # inside of each image, not of the batch
    assert (boxes[1, :, 2] <= inputs[1][1, 1]).all()


def test_suppression_of_a_batch_is_that_of_each_image() -> None:
    draw = torch.Generator().manual_seed(0)
    corners = 400 * torch.rand(3, 50, 2, generator=draw)
    boxes = torch.cat([corners, corners + 20 + 80 * torch.rand(3, 50, 2, generator=draw)], 2)
    scores, groups = torch.rand(3, 50, generator=draw), torch.randint(0, 3, (3, 50), generator=draw)
    valid = scores > 0.2
    stays = suppressed(boxes, scores, groups, valid, 0.3, 3)
    for image in range(3):
        place = valid[image].nonzero()[:, 0]
        kept = place[batched_nms(boxes[image][place], scores[image][place], groups[image][place], 0.3)]
        assert stays[image].nonzero()[:, 0].tolist() == sorted(kept.tolist())


class Suppression(nn.Module):
    """The suppression alone, of 80 groups."""

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
        """(B, M)."""
        return suppressed(boxes, scores, groups, valid, 0.5, 80)


def small_boxes(seed: int) -> tuple[Tensor, ...]:
    """500 candidates of 8 of 80 classes: 12 pixels large, far from the corner of an image of 1,333 pixels.

    Half of them are copies of the others, moved so far that they overlap by about a half.
    """
    draw = torch.Generator().manual_seed(seed)
    corners = 1253 + 60 * torch.rand(1, 250, 2, generator=draw)
    boxes = torch.cat([corners, corners + 6 + 12 * torch.rand(1, 250, 2, generator=draw)], 2)
    moved = (boxes[..., 2:] - boxes[..., :2]) / 3 * (1 + 0.01 * torch.randn(1, 250, 1, generator=draw))
    moved[..., 1] = 0
    scores = torch.rand(1, 500, generator=draw)
    groups = torch.randint(72, 80, (1, 250), generator=draw)
    return torch.cat([boxes, boxes + moved.repeat(1, 1, 2)], 1), scores, groups.repeat(1, 2), scores > 0.05


def exactly(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """What stays, (B, M), class by class and image by image."""
    stays = torch.zeros_like(valid)
    for image in range(len(boxes)):
        for group in groups[image].unique():
            place = (valid[image] & (groups[image] == group)).nonzero()[:, 0]
            stays[image, place[nms(boxes[image, place], scores[image, place], 0.5)]] = True
    return stays


def test_suppression_in_onnx_is_exact_in_each_class(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module, names = Suppression(), ["boxes", "scores", "groups", "valid"]
    several = tuple(map(torch.cat, zip(*map(small_boxes, range(20)), strict=True)))
    batch = torch.export.Dim("batch", max=64)
    with quiet():
        torch.onnx.export(
            module, tuple(each[:2] for each in several), str(tmp_path / "alone.onnx"), dynamo=True, input_names=names,
            dynamic_shapes=({0: batch},) * 4, verbose=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(tmp_path / "alone.onnx"))
    [found] = session.run(None, {name: each.numpy() for name, each in zip(names, several, strict=True)})
    wanted = exactly(*several)
    assert 5_000 < int(wanted.sum()) < int(several[3].sum())
    assert torch.equal(torch.from_numpy(found), wanted)
    assert torch.equal(module(*several), wanted)


def test_the_best_of_a_short_row_are_filled_up() -> None:
    values, index = best(torch.tensor([[-3.0, -1.0]]), 3)
    assert values.tolist() == [[-1.0, -3.0, -torch.inf]]
    assert index.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_an_open_group_norm_is_a_group_norm(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    x: Tensor = torch.randn(2, 6, *size).to(memory_format=torch.channels_last)
    torch.testing.assert_close(OpenGroupNorm(norm)(x), norm(x))


def test_the_detector_that_is_folded_stays_as_it_is() -> None:
    model = create_detector(
        "fcos", RESNET, num_classes=2, channels=64, backbone_args=dict(layers=(1, 1, 1, 1), width=8)
    )
    before = deepcopy(model)
    DetectorGraph(fold(model.eval()))
    assert [type(a) for a in model.modules()] == [type(b) for b in before.modules()]
