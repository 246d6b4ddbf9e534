"""Detectors over any backbone: RetinaNet, FCOS, Faster, Mask and Cascade R-CNN, composed of torchvision's parts.

Shapes: h, w image · n objects
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads

from acmix.errors import UsageError
from acmix.heads.arguments import features_of
from acmix.heads.cascade import BOX_WEIGHTS, THRESHOLDS, CascadeHeads, Stage
from acmix.heads.features import Features
from acmix.heads.inputs import check_images, check_norms, check_targets
from acmix.heads.parts import (
    RATIOS,
    Anchors,
    MaskPredictor,
    PointHead,
    Predictor,
    ProposalHead,
    Proposals,
    PyramidBackbone,
    RetinaHead,
    region_pool,
)
from acmix.heads.pyramid import SIMPLE_STRIDES, Extra, Pyramid, SimplePyramid
from acmix.heads.transform import Transform
from acmix.near import did_you_mean

DENSE = ("retinanet", "fcos")
DETECTORS = (*DENSE, "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn")
# the first stride of RetinaNet's and FCOS's pyramids
DENSE_STRIDE = 8
# where the two extra maps of RetinaNet and FCOS come from, where nothing else is asked for
EXTRA: dict[str, Extra] = {"retinanet": "c5", "fcos": "p5"}
# side of a map's smallest anchor over the map's stride, where nothing else is asked for
ANCHOR_SCALE = {"retinanet": 4.0, "faster_rcnn": 8.0, "mask_rcnn": 8.0, "cascade_rcnn": 8.0, "cascade_mask_rcnn": 8.0}
MOST_ANCHOR_SCALE = 256.0
# sizes of RetinaNet's anchors at a place, within a doubling
RETINA_SIZES = 3
# of what R-CNNs cut out for boxes and for masks
BOX_SIDE, MASK_SIDE = 7, 14
# groups of FCOS's norms, of two channels at least: a map may be one pixel
GROUPS = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detector(nn.Module):
    """What all detectors share, ahead of one of torchvision's classes.

    Attributes:
        head_name: one of `DETECTORS`.
        num_classes: classes without the background.
        backbone: features and pyramid.
        transform: normalises, resizes and pads.
    """

    head_name: str
    num_classes: int
    backbone: PyramidBackbone
    transform: Transform

    @property
    def features(self) -> Features:
        """The backbone without its pyramid."""
        return self.backbone.features

    @property
    def anchors(self) -> Anchors | None:
        """The boxes that objects are told as corrections of; None of FCOS, which has points."""
        return None

    @property
    def has_masks(self) -> bool:
        """Whether detections come with masks, and targets must."""
        return "mask" in self.head_name

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Images (3, h, w) in 0 … 1, and in training their targets -> losses in training, else detections.

        Raises:
            UsageError: images or targets that cannot be meant.
        """
        check_images(images, self.features.in_chans)
        if self.training:
            check_targets(targets, images, self.num_classes, masks=self.has_masks)
        return super().forward([*images], targets if self.training else None)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the backbone and its pyramid in place; arguments are those of `torch.compile`.

        What follows depends on the proposals and objects of each image: compiled, it is dozens of small graphs.
        """
        self.backbone.compile(*args, **kwargs)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each block's input of the backbone for the backward pass and computes the rest again."""
        self.features.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed."""
        return {f"backbone.features.{name}" for name in self.features.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer: the backbone's layers; pyramid and heads are the last one."""
        return self.features.group_matcher(coarse, prefix="backbone.features.")


class RetinaDetector(Detector, RetinaNet):
    """torchvision's RetinaNet over a pyramid of ours."""

    @property
    def anchors(self) -> Anchors:
        anchors: Any = self.anchor_generator
        return anchors


class PointDetector(Detector, FCOS):
    """torchvision's FCOS over a pyramid of ours."""


class RegionDetector(Detector, GeneralizedRCNN):
    """torchvision's frame of an R-CNN over a pyramid of ours."""

    @property
    def anchors(self) -> Anchors:
        proposals: Any = self.rpn
        return proposals.anchor_generator


@dataclass(frozen=True)
class Heads:
    """What is common to the heads of one detector; see `create_detector`."""

    num_classes: int
    hidden: int
    proposals: int
    samples: int
    anchor_scale: float
    detections: int
    score_threshold: float

    @property
    def outputs(self) -> int:
        """Classes and the background."""
        return self.num_classes + 1


def create_detector(
    head: str,
    backbone: str,
    *,
    num_classes: int = 80,
    conv_path: bool = True,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    backbone_args: Mapping[str, Any] | None = None,
    channels: int = 256,
    hidden: int | None = None,
    proposals: int | None = None,
    samples: int | None = None,
    anchor_scale: float | None = None,
    extra: Extra | None = None,
    out_norms: bool | None = None,
    detections: int = 100,
    score_threshold: float = 0.05,
    **others: Any,
) -> Detector:
    """Builds a detector, with torchvision's calling convention.

        losses = model(images, targets)         a dict of losses in training; their sum is the loss
        found = model.eval()(images)            a list of {boxes, labels, scores[, masks]}

    Images are (3, h, w) in 0 … 1, of any sizes. A target has `boxes`, float32 (n, 4) as x1, y1, x2, y2 in pixels,
    `labels`, int64 (n,) from 1 to `num_classes`, and for masks `masks`, uint8 (n, h, w); n may be 0. Detections are in
    the same form, with scores in 0 … 1 and masks (n, 1, h, w) in 0 … 1.

    Args:
        head: "retinanet", "fcos", "faster_rcnn", "mask_rcnn", "cascade_rcnn" or "cascade_mask_rcnn".
        backbone: one of `acmix.list_models()`, or another name of timm's.
        num_classes: classes without the background.
        conv_path: False gives the plain form of our backbones.
        min_size: the shorter side in pixels that images are scaled to; of several, training draws one for each image.
        max_size: the most that the longer side gets by it.
        mean: of the images' channels, in 0 … 1.
        std: of the images' channels.
        backbone_args: arguments of the backbone: embed_dim, depths, drop_path_rate, img_size, …; needed for names that
            are a detector's too.
        channels: of the pyramid and the heads.
        hidden: width of the linear layers of R-CNNs; 1024 by default.
        proposals: regions of an image that R-CNNs look at; 1000 by default, and twice as many in training.
        samples: of those, the most that their box heads learn from; 512 by default.
        anchor_scale: side of a map's smallest anchor over the map's stride; 4 for RetinaNet, 8 for R-CNNs by default,
            so that the smallest are of 32 pixels. Less where most objects are smaller. FCOS has no anchors.
        extra: where RetinaNet's and FCOS's two smallest maps come from: "c5", the backbone's last map (RetinaNet's
            default), or "p5", the pyramid's (FCOS's, and for a backbone of one map).
        out_norms: a LayerNorm on each of the backbone's maps; by default for Swin alone.
        detections: most of an image; 100 for every head (torchvision's RetinaNet keeps 300).
        score_threshold: detections below it are left out.
        others: further arguments of the backbone, as in `backbone_args`.

    Returns:
        The detector, in training mode. `features`, `transform`, `head_name`, `has_masks` and `num_classes` are its
        attributes.

    Raises:
        UsageError: no such head or backbone, or arguments that do not fit.
    """
    if head not in DETECTORS:
        hint = did_you_mean(head, DETECTORS, otherwise=f"there are {', '.join(DETECTORS)}")
        raise UsageError(f"no detection head {head!r}; {hint}")
    check_counts(num_classes=num_classes, channels=channels, detections=detections)
    check_norms(out_norms)
    if (
        isinstance(score_threshold, bool)
        or not isinstance(score_threshold, (int, float))
        or not 0 <= score_threshold < 1
    ):
        raise UsageError(f"score_threshold={score_threshold!r}; expected a number from 0 to below 1")
    of_regions = dict(hidden=hidden, proposals=proposals, samples=samples)
    if head == "fcos" and channels % (2 * GROUPS):
        raise UsageError(
            f"channels={channels}; expected a multiple of {2 * GROUPS} for fcos, whose norms take {GROUPS} groups"
        )
    check_kind(head, extra, {name: each for name, each in of_regions.items() if each is not None})
    check_anchor_scale(head, anchor_scale)
    sizes = Transform(min_size, max_size, mean=mean, std=std)
    in_chans = {**others, **(backbone_args or {})}.get("in_chans", 3)
    if not len(mean) == len(std) == in_chans:
        raise UsageError(f"mean and std have {len(mean)} and {len(std)} values, and images {in_chans} channels")
    body_args = {"conv_path": conv_path, **(backbone_args or {})}
    own = [name for name in create_detector.__kwdefaults__ or {} if name != "backbone_args"]
    features = features_of(backbone, others, body_args, owner="create_detector", takes=own)
    dense = head in DENSE
    body = pyramid_over(
        features,
        channels=channels,
        first=DENSE_STRIDE if dense else 0,
        extra=(extra or EXTRA[head]) if dense else "pool",
        is_chosen=extra is not None,
        out_norms="swin" in backbone if out_norms is None else out_norms,
    )
    heads = Heads(
        num_classes,
        hidden=hidden or 1024,
        proposals=proposals or 1000,
        samples=samples or 512,
        anchor_scale=anchor_scale or ANCHOR_SCALE.get(head, 0.0),
        detections=detections,
        score_threshold=score_threshold,
    )
    build = {"retinanet": retina_detector, "fcos": point_detector}.get(head, region_detector)
    model = build(head, body, heads, sizes)
    model.head_name, model.num_classes = head, num_classes
    return model


def check_counts(**counts: int) -> None:
    """Refuses numbers below one."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            background = ": the background is not counted" if name == "num_classes" else ""
            raise UsageError(f"{name}={count!r}; expected a whole number from 1 on{background}")


def check_kind(head: str, extra: str | None, of_regions: dict[str, int]) -> None:
    """Refuses arguments of R-CNNs for RetinaNet and FCOS, and the other way round."""
    if head in DENSE:
        for name, count in of_regions.items():
            raise UsageError(f"{name}={count}: {head} looks at no regions; leave it out")
        if extra not in (None, "c5", "p5"):
            raise UsageError(f"extra={extra!r}; expected 'c5' or 'p5' for {head}")
    else:
        check_counts(**of_regions)
        if extra is not None:
            raise UsageError(f"extra={extra!r} is for retinanet and fcos; {head} has one pooled map: leave it out")


def check_anchor_scale(head: str, scale: float | None) -> None:
    """Refuses what is no size of anchors, and any for a head without them."""
    if scale is None:
        return
    if head not in ANCHOR_SCALE:
        raise UsageError(f"anchor_scale={scale!r}: {head} has no anchors; leave it out")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= MOST_ANCHOR_SCALE:
        raise UsageError(f"anchor_scale={scale!r}; expected a number above 0, up to {MOST_ANCHOR_SCALE:g}")


def pyramid_over(
    features: Features,
    *,
    channels: int,
    first: int,
    extra: Extra | None,
    is_chosen: bool = True,
    out_norms: bool = False,
) -> PyramidBackbone:
    """The pyramid that suits the features: over maps of several strides, or ViTDet's over one of stride 16.

    Args:
        features: of the images.
        channels: of the pyramid.
        first: its first stride; maps of smaller ones are left out.
        extra: smaller maps behind its last, see `Pyramid`.
        is_chosen: whether `extra` was asked for; else a single map's default is "p5" in the place of "c5".
        out_norms: a LayerNorm on each map of several.

    Raises:
        UsageError: features that no pyramid stands on.
    """
    if len(features.strides) == 1:
        if features.strides != [16]:
            raise UsageError(
                f"{features.name} has one map, of stride {features.strides[0]}; a pyramid needs several, or one of 16"
            )
        strides = [each for each in SIMPLE_STRIDES if each >= first]
        own = "p5" if extra == "c5" and not is_chosen else extra
        simple = SimplePyramid(features.channels[0], out_channels=channels, strides=strides, extra=own)
        return PyramidBackbone(features, simple)
    levels = [i for i, stride in enumerate(features.strides) if stride >= first]
    features.keep(levels)
    pyramid = Pyramid(features.channels, features.strides, out_channels=channels, extra=extra, out_norms=out_norms)
    return PyramidBackbone(features, pyramid)


def retina_detector(head: str, body: PyramidBackbone, heads: Heads, transform: Transform) -> Detector:
    """RetinaNet: three sizes and three ratios of anchors at each place."""
    doubling = [2 ** (i / RETINA_SIZES) for i in range(RETINA_SIZES)]
    sizes = [[heads.anchor_scale * stride * each for each in doubling] for stride in body.strides]
    anchors = Anchors(sizes, body.strides)
    model = RetinaDetector(
        body,
        heads.outputs,
        anchor_generator=anchors,
        head=RetinaHead(body.out_channels, len(RATIOS) * RETINA_SIZES, heads.outputs),
        score_thresh=heads.score_threshold,
        detections_per_img=heads.detections,
    )
    model.transform = transform
    return model


def point_detector(head: str, body: PyramidBackbone, heads: Heads, transform: Transform) -> Detector:
    """FCOS: one point at each place."""
    model = PointDetector(
        body,
        heads.outputs,
        anchor_generator=Anchors([[each] for each in body.strides], body.strides, ratios=(1.0,)),
        head=PointHead(body.out_channels, 1, heads.outputs),
        score_thresh=heads.score_threshold,
        detections_per_img=heads.detections,
    )
    model.transform = transform
    return model


def region_detector(head: str, body: PyramidBackbone, heads: Heads, transform: Transform) -> Detector:
    """An R-CNN: proposals on all maps, regions cut out of all but the pooled one."""
    anchors = Anchors([[heads.anchor_scale * each] for each in body.strides], body.strides)
    kept = dict(training=2 * heads.proposals, testing=heads.proposals)
    proposals = Proposals(
        anchors,
        ProposalHead(body.out_channels, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )
    count = len(THRESHOLDS) if is_cascade(head) else 1
    stages = [
        region_heads(head, body, heads, iou=iou, box_weights=weights)
        for iou, weights in zip(THRESHOLDS[:count], BOX_WEIGHTS[:count], strict=True)
    ]
    return RegionDetector(body, proposals, CascadeHeads(stages) if is_cascade(head) else stages[0], transform)


def is_cascade(head: str) -> bool:
    """Whether a detector has several stages."""
    return head.startswith("cascade")


def region_heads(
    head: str, body: PyramidBackbone, heads: Heads, *, iou: float, box_weights: Sequence[float]
) -> RoIHeads:
    """The heads for regions of one stage, or of an R-CNN that has no stages.

    A stage of a cascade has four convolutions with batch norms and a linear layer for boxes, else there are two linear
    layers; masks have four convolutions.
    """
    channels, strides = body.out_channels, body.strides[:-1]
    if is_cascade(head):
        sides = (channels, BOX_SIDE, BOX_SIDE)
        box_head: nn.Module = FastRCNNConvFCHead(sides, [channels] * 4, [heads.hidden], norm_layer=nn.BatchNorm2d)
    else:
        box_head = TwoMLPHead(channels * BOX_SIDE**2, heads.hidden)
    masks: dict[str, nn.Module] = {}
    if "mask" in head:
        masks = dict(
            mask_roi_pool=region_pool(strides, MASK_SIDE),
            mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=MaskPredictor(channels, channels, heads.outputs),
        )
    return (Stage if is_cascade(head) else RoIHeads)(
        region_pool(strides, BOX_SIDE),
        box_head,
        Predictor(heads.hidden, heads.outputs),
        fg_iou_thresh=iou,
        bg_iou_thresh=iou,
        batch_size_per_image=heads.samples,
        positive_fraction=0.25,
        bbox_reg_weights=tuple(box_weights),
        score_thresh=heads.score_threshold,
        nms_thresh=0.5,
        detections_per_img=heads.detections,
        **masks,
    )
