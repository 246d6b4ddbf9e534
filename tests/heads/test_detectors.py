"""Detectors: every head over every family trains, detects, and goes where a module of PyTorch's goes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import box_iou

import acmix
from acmix.errors import UsageError
from acmix.heads.detectors import DENSE, DETECTORS, Detector, create_detector
from acmix.heads.parts import Anchors
from tests.heads.targets import pictures
from tests.heads.tiny import DEIT, RESNET, SWIN, TINY, detector

LOSSES = {
    "retinanet": {"classification", "bbox_regression"},
    "fcos": {"classification", "bbox_regression", "bbox_ctrness"},
    "faster_rcnn": {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"},
}
LOSSES["mask_rcnn"] = LOSSES["faster_rcnn"] | {"loss_mask"}
LOSSES["cascade_rcnn"] = {"loss_objectness", "loss_rpn_box_reg"} | {
    f"stage{i}_{name}" for i in range(3) for name in ("classifier", "box_reg")
}
LOSSES["cascade_mask_rcnn"] = LOSSES["cascade_rcnn"] | {f"stage{i}_mask" for i in range(3)}


def losses_of(model: Detector, images: list[Tensor], targets: list[dict], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model(images, targets)


def learns(model: Detector, images: list[Tensor], targets: list[dict]) -> None:
    """Losses are finite numbers, and every parameter gets a gradient."""
    model.train().zero_grad()
    losses = losses_of(model, images, targets)
    assert losses.keys() == LOSSES[model.head_name]
    torch.stack([*losses.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def detects(model: Detector, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Boxes lie in their images, and labels are classes."""
    model.eval()
    with torch.no_grad():
        found = model(images)
    for each, image in zip(found, images, strict=True):
        count, (height, width) = len(each["boxes"]), image.shape[1:]
        assert each["boxes"].shape == (count, 4)
        assert ((each["boxes"] >= 0) & (each["boxes"] <= torch.tensor([width, height] * 2) + 1e-3)).all()
        assert ((each["labels"] >= 1) & (each["labels"] <= model.num_classes)).all()
        assert ((each["scores"] >= 0) & (each["scores"] <= 1)).all()
        assert ("masks" in each) == model.has_masks
        if model.has_masks:
            assert each["masks"].shape == (count, 1, height, width)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("head", DETECTORS)
def test_every_head_learns_and_detects_over_every_family(head: str, backbone: str) -> None:
    model = detector(head, backbone)
    learns(model, *pictures((50, 70), (64, 40)))
    learns(model, *pictures((60, 60), (60, 60), objects=0))
    learns(model, *pictures((1, 300), (300, 1), (33, 64), objects=1))
    detects(model, pictures((50, 70), (1, 300), (300, 1))[0])


@pytest.mark.parametrize(("head", "backbone"), [("mask_rcnn", SWIN), ("retinanet", RESNET), ("fcos", DEIT)])
def test_an_image_without_objects_gives_every_parameter_a_gradient(head: str, backbone: str) -> None:
    model = detector(head, backbone)
    learns(model, *pictures((60, 60), objects=0))
    learns(model, *pictures((50, 70), (64, 40)))
    detects(model, pictures((50, 70), (64, 40))[0])


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet"])
def test_images_one_pixel_high_and_very_long_go_through(head: str) -> None:
    model = detector(head)
    images, targets = pictures((1, 5000), (40, 3), (1, 1), objects=1)
    learns(model, images, targets)
    before = detects(model, images)
    # nothing that the first images were like is remembered
    other = detects(detector_like(model), pictures((64, 64))[0] + images)[1:]
    assert [len(each["boxes"]) for each in before] == [len(each["boxes"]) for each in other]


def detector_like(model: Detector) -> Detector:
    other = detector(model.head_name)
    other.load_state_dict(model.state_dict())
    return other


def test_pyramids_are_those_of_the_recipes() -> None:
    assert detector("retinanet").backbone.strides == [8, 16, 32, 64, 128]
    assert detector("retinanet").backbone.pyramid.extra.extra == "c5"
    assert detector("retinanet", DEIT).backbone.pyramid.extra.extra == "p5"
    assert detector("retinanet", extra="p5").backbone.pyramid.extra.extra == "p5"
    assert detector("fcos").backbone.pyramid.extra.extra == "p5"
    assert detector("mask_rcnn").backbone.strides == [4, 8, 16, 32, 64]
    assert detector("mask_rcnn", DEIT).backbone.strides == [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("backbone", "given", "norms"), [(SWIN, None, True), (RESNET, None, False), (SWIN, False, False)]
)
def test_swin_alone_has_norms_on_its_maps_unless_asked(backbone: str, given: bool | None, norms: bool) -> None:
    model = detector("faster_rcnn", backbone, out_norms=given)
    assert any("pyramid.norms" in name for name, _ in model.named_parameters()) == norms


@pytest.mark.parametrize(
    ("head", "backbone", "millions"),
    [
        ("mask_rcnn", "swin_tiny", 48),
        pytest.param("mask_rcnn", "swin_small", 69, marks=pytest.mark.slow),
        ("retinanet", "swin_tiny", 38.5),
        ("cascade_mask_rcnn", "swin_tiny", 86),
        pytest.param("cascade_mask_rcnn", "swin_small", 107, marks=pytest.mark.slow),
    ],
)
def test_plain_forms_have_the_published_parameters(head: str, backbone: str, millions: float) -> None:
    with torch.device("meta"):
        model = create_detector(head, f"acmix_{backbone}_patch4_window7_224", conv_path=False)
    count = sum(each.numel() for each in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.015)


@pytest.mark.parametrize("head", ["retinanet", "fcos"])
def test_no_answer_is_the_background(head: str) -> None:
    model = detector(head)
    logits: Any = model.head.classification_head.cls_logits  # pyright: ignore[reportAttributeAccessIssue]
    torch.nn.init.constant_(logits.bias, 3.0)
    found = detects(model, pictures((64, 64))[0])
    assert len(found[0]["labels"])


def of_second_class(seed: int, count: int) -> tuple[list[Tensor], list[dict]]:
    """Pictures of 64 × 64 pixels with one square each, all of class 2."""
    images, targets = pictures(*[(64, 64)] * count, objects=1, seed=seed)
    return images, [{**target, "labels": torch.full_like(target["labels"], 2)} for target in targets]


# Faster R-CNN finds and names boxes by the parts of Mask R-CNN, and the cascade with masks by those of the cascade;
# test_learning.py has the losses of that one, masks and all, fall
@pytest.mark.slow
@pytest.mark.parametrize("head", ["retinanet", "fcos", "mask_rcnn", "cascade_rcnn"])
def test_squares_are_found_and_named(head: str) -> None:
    torch.manual_seed(0)
    # no anchor of RetinaNet's is smaller than 32 pixels, a third of 96
    model = detector(head, RESNET, min_size=96)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(60):
        losses = losses_of(model, *of_second_class(4 * step, 4), seed=step)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    images, targets = of_second_class(10_000, 8)
    hits = 0
    for found, target in zip(detects(model, images), targets, strict=True):
        if len(found["boxes"]):
            best = found["scores"].argmax()
            overlap = box_iou(found["boxes"][best : best + 1], target["boxes"]).item()
            hits += overlap > 0.5 and found["labels"][best].item() == 2
    assert hits >= 6


@pytest.mark.parametrize(
    ("head", "theirs"),
    [("retinanet", RetinaNet), ("fcos", FCOS), ("faster_rcnn", FasterRCNN), ("mask_rcnn", MaskRCNN)],
)
def test_losses_are_torchvisions_where_no_side_has_a_rest(head: str, theirs: Any) -> None:
    model = detector(head, max_size=128, min_size=128)
    (anchors,) = (each for each in model.modules() if isinstance(each, Anchors))
    own = AnchorGenerator(anchors.sizes, anchors.aspect_ratios)
    arguments = dict(min_size=128, max_size=128)
    if head in DENSE:
        other = theirs(model.backbone, 3, anchor_generator=own, **arguments)
    else:
        parts: Any = model.roi_heads
        other = theirs(
            *(model.backbone, None),
            rpn_anchor_generator=own,
            rpn_pre_nms_top_n_train=40,
            rpn_post_nms_top_n_train=40,
            box_batch_size_per_image=32,
            box_head=TwoMLPHead(32 * 49, 16),
            box_predictor=FastRCNNPredictor(16, 3),
            **(
                dict(mask_predictor=MaskRCNNPredictor(32, 32, 3), mask_head=copy.deepcopy(parts.mask_head))
                if model.has_masks
                else {}
            ),
            **arguments,
        )
    other.load_state_dict(model.state_dict())
    images, targets = pictures((128, 128), (128, 128), objects=3)
    before, after = losses_of(model, images, targets), losses_of(other, images, targets)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet"])
def test_copies_and_pickles_say_the_same(head: str) -> None:
    model = detector(head)
    images = pictures((50, 70))[0]
    found = detects(model, images)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), detector_like(model)):
        again = detects(other, images)[0]
        for key in found:
            assert torch.equal(found[key], again[key])
        assert (other.head_name, other.num_classes, other.has_masks) == (head, 2, head == "mask_rcnn")


@pytest.mark.parametrize(("head", "backbone"), [("mask_rcnn", SWIN), ("retinanet", RESNET), ("faster_rcnn", DEIT)])
def test_folded_detectors_find_the_same(head: str, backbone: str) -> None:
    torch.manual_seed(0)
    model = detector(head, backbone).eval()
    for module in model.modules():
        # running statistics and rates that are not those of the start
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # pyright: ignore[reportOptionalMemberAccess]
    folded = acmix.fold(model)
    assert isinstance(folded, Detector)
    assert not any("rate_conv" in name for name, _ in folded.named_parameters())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for before, after in zip(model.backbone(x).values(), folded.backbone(x).values(), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    images = pictures((50, 70))[0]
    before, after = detects(model, images)[0], detects(folded, images)[0]
    torch.testing.assert_close(before["scores"], after["scores"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TINY)
def test_backbone_and_pyramid_compile_to_one_graph(backbone: str) -> None:
    model = detector("mask_rcnn", backbone).eval()
    torch.compiler.reset()
    # the tests of models compile each family to the end; here it is one graph that matters
    compiled = torch.compile(model.backbone, backend="eager", fullgraph=True)
    # a second size compiles again: the pyramid with any size is the same over maps, and another one over DeiT's tokens
    for size in ((64, 64), (64, 96)) if backbone in (SWIN, DEIT) else ((64, 96),):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            for before, after in zip(model.backbone(x).values(), compiled(x).values(), strict=True):
                torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_a_compiled_detector_says_the_same(head: str) -> None:
    # pasting masks is traced anew for every detection of the first few: two show it, ten take twice as long
    few: dict[str, Any] = dict(detections=2) if head == "mask_rcnn" else {}
    model = detector(head, **few)
    images, targets = pictures((50, 70), (64, 40))
    torch.compiler.reset()
    compiled: Any = torch.compile(model, backend="eager")
    before, after = losses_of(model, images, targets), losses_of(compiled, images, targets)
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=1e-4, atol=1e-5)
    model.eval()
    with torch.no_grad():
        before, after = model(images), compiled(images)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("head", "backbone"), [pytest.param("mask_rcnn", SWIN, marks=pytest.mark.slow), ("retinanet", RESNET)]
)
def test_checkpointing_gives_the_same_losses_and_gradients(head: str, backbone: str) -> None:
    model = detector(head, backbone)
    images, targets = pictures((50, 70), (64, 40))
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        losses = losses_of(model, images, targets)
        torch.stack([*losses.values()]).sum().backward()
        results.append([*losses.values(), *(each.grad for each in model.parameters())])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet"])
def test_channels_last_says_the_same(head: str) -> None:
    model = detector(head)
    images, targets = pictures((50, 70))
    before = losses_of(model, images, targets)
    after = losses_of(model.to(memory_format=torch.channels_last), images, targets)  # pyright: ignore[reportCallIssue]
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn", "fcos"])
def test_a_detector_in_half_precision_detects_and_trains(head: str, dtype: torch.dtype) -> None:
    model = detector(head).to(dtype)
    images, targets = pictures((50, 70), (64, 40))
    images = [each.to(dtype) for each in images]
    assert all(torch.isfinite(each) for each in losses_of(model, images, targets).values())
    found = detects(model, images)[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert ("masks" in found) == model.has_masks


@pytest.mark.parametrize("head", ["mask_rcnn", "retinanet", "fcos"])
def test_bf16_moves_no_box_to_a_coarse_grid(head: str) -> None:
    model = detector(head, max_size=1000)
    images, targets = pictures((64, 900))
    with torch.autocast("cpu", torch.bfloat16):
        learns_in_bf16 = losses_of(model, images, targets)
        model.eval()
        with torch.no_grad():
            found = model(images)[0]
    assert all(each.isfinite() for each in learns_in_bf16.values())
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    # in bfloat16 each would be a multiple of 2 or 4 there
    far = found["boxes"][found["boxes"] > 256]
    assert len(far) == 0 or (far % 1 != 0).any()


def test_layer_decay_gives_heads_the_whole_rate_and_rates_no_decay() -> None:
    model = detector("mask_rcnn")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    of = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    parameters = dict(model.named_parameters())
    assert of[id(parameters["roi_heads.box_head.fc6.weight"])]["lr_scale"] == 1.0
    assert of[id(parameters["backbone.features.body.model.patch_embed.proj.weight"])]["lr_scale"] < 0.1
    assert model.no_weight_decay() <= parameters.keys()
    assert all(of[id(parameters[name])]["weight_decay"] == 0 for name in model.no_weight_decay())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(head="mask_rcn"), "no detection head 'mask_rcn'; did you mean 'mask_rcnn'?"),
        (dict(head="upernet"), "no detection head 'upernet'; there are retinanet, fcos, faster_rcnn, mask_rcnn, "),
        (dict(backbone="acmix_swin_tyni"), "no model 'acmix_swin_tyni'"),
        (dict(num_classes=0), "num_classes=0; expected a whole number from 1 on: the background is not counted"),
        (dict(detections=0), "detections=0; expected"),
        (dict(chanels=8), f"chanels=8: neither create_detector nor {SWIN} takes it; did you mean 'channels'"),
        (dict(box_detections_per_img=8), "box_detections_per_img: torchvision's name; here it is detections"),
        (dict(score_thresh=0.1), "score_thresh: torchvision's name; here it is score_threshold"),
        (dict(aux_loss=True), "neither create_detector nor"),
        (dict(image_mean=(0, 0, 0)), "image_mean: torchvision's name; here it is mean"),
        (dict(backbone_args=dict(depth=3)), "depth=3: "),
        (dict(backbone_args=dict(embed_dim="wide")), "cannot build the backbone"),
        (dict(backbone_args=dict(in_chans=4)), "mean and std have 3 and 3 values, and images 4 channels"),
        (dict(min_size=0), "min_size=0, max_size=1333; expected lengths"),
        (dict(extra="p5"), "extra='p5' is for retinanet and fcos"),
        (dict(head="retinanet", hidden=8), "hidden=8: retinanet looks at no regions"),
        (dict(head="retinanet", extra="pool"), "expected 'c5' or 'p5' for retinanet"),
        (dict(head="fcos", anchor_scale=2), "anchor_scale=2: fcos has no anchors; leave it out"),
        (dict(anchor_scale=0), "anchor_scale=0; expected a number above 0, up to 256"),
        (dict(anchor_scale=1e9), "anchor_scale=1000000000.0; expected a number above 0"),
        (dict(head="fcos", channels=32), "expected a multiple of 64 for fcos"),
        (dict(backbone="test_vit2", backbone_args=dict(patch_size=8)), "has one map, of stride 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(arguments: dict[str, Any], said: str) -> None:
    given = {"head": "mask_rcnn", "backbone": SWIN, **arguments}
    with pytest.raises(UsageError) as error:
        create_detector(**given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
