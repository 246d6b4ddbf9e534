"""torchvision's parts of detectors where they need another word: exact strides, float32 boxes, never no proposal.

Shapes: B batch · H, W map · A anchors a place · R regions · K classes and the background
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from acmix.heads.features import Features
from acmix.heads.pyramid import Pyramid, SimplePyramid

# height over width of anchors
RATIOS = (0.5, 1.0, 2.0)
# that torchvision draws RetinaNet's weights for
USUAL_CHANNELS = 256


class PyramidBackbone(nn.Module):
    """A backbone and its pyramid, as torchvision's detectors ask for it.

    Args:
        features: of the images.
        pyramid: over its maps.

    Attributes:
        out_channels: of every map.
        strides: of every map.
    """

    def __init__(self, features: Features, pyramid: Pyramid | SimplePyramid) -> None:
        super().__init__()
        self.features, self.pyramid = features, pyramid
        self.out_channels, self.strides = pyramid.out_channels, pyramid.strides

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, h, w) -> maps (B, out_channels, H, W), named "0", "1", … from the largest on."""
        return OrderedDict((str(i), each) for i, each in enumerate(self.pyramid(self.features(x))))


class Anchors(AnchorGenerator):
    """Anchors at the exact strides of the maps, in float32.

    torchvision's own divides the batch's sides by the maps', which is less than the stride where a side is no multiple
    of it, and takes the maps' dtype, in which bfloat16 knows multiples of 4 alone beyond 512 pixels.

    Args:
        sizes: of the anchors of each map, square roots of their areas.
        strides: of each map.
        ratios: height over width.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], strides: Sequence[int], ratios: Sequence[float] = RATIOS
    ) -> None:
        of_maps: Any = tuple(tuple(each) for each in sizes)
        super().__init__(of_maps, (tuple(ratios),) * len(sizes))
        self.strides = [*strides]

    def shapes(self) -> Tensor:
        """Width and height of each of a place's anchors on all maps, float32 (maps·A, 2)."""
        of_maps = zip(self.sizes, self.aspect_ratios, strict=True)
        return torch.tensor(
            [(size / ratio**0.5, size * ratio**0.5) for sizes, ratios in of_maps for ratio in ratios for size in sizes]
        )

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """A list of (ΣH·W·A, 4) boxes, the same for each image."""
        like = feature_maps[0]
        self.set_cell_anchors(torch.promote_types(like.dtype, torch.float32), like.device)
        strides: Any = [[each, each] for each in self.strides]
        boxes = torch.cat(self.grid_anchors([[*each.shape[-2:]] for each in feature_maps], strides))
        return [boxes] * len(image_list.image_sizes)


def precise(x: Tensor) -> Tensor:
    """At least float32: boxes and scores are computed in it, also under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ProposalHead(RPNHead):
    """torchvision's head of proposals, with results in float32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps -> logits (B, A, H, W) and box deltas (B, 4·A, H, W) of each."""
        logits, deltas = super().forward(x)
        return [precise(each) for each in logits], [precise(each) for each in deltas]


class Proposals(RegionProposalNetwork):
    """torchvision's proposals; in training an image always has one: the whole of it where no other is left."""

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All proposals of each image -> the best of them, (R, 4), and their scores."""
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        if self.training:
            for i, (height, width) in enumerate(image_shapes):
                # the mean of a loss over no proposal would be no number
                if not len(boxes[i]):
                    boxes[i] = boxes[i].new_tensor([[0, 0, width, height]])
                    scores[i] = scores[i].new_zeros(1)
        return boxes, scores


class Predictor(FastRCNNPredictor):
    """torchvision's two linear layers behind a region's head, with results in float32, drawn as in Fast R-CNN."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C) -> class logits (R, K) and box deltas (R, 4·K)."""
        logits, deltas = super().forward(x)
        return precise(logits), precise(deltas)


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's last layers of a mask, with results in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """(R, C, 14, 14) -> logits (R, K, 28, 28)."""
        return precise(super().forward(input))


class RetinaHead(RetinaNetHead):
    """torchvision's head of RetinaNet, with results in float32, that never answers with label 0.

    Its weights are drawn for 256 channels; with fewer they are drawn as much wider, or nothing of the map would reach
    the last layer through four that each weaken it.
    """

    def __init__(self, in_channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(in_channels, num_anchors, num_classes)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.mul_((USUAL_CHANNELS / in_channels) ** 0.5)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Maps -> class logits (B, ΣH·W·A, K) and box deltas (B, ΣH·W·A, 4)."""
        return answers(super().forward(x), self.training)


class PointHead(FCOSHead):
    """torchvision's head of FCOS, with results in float32, that never answers with label 0."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Maps -> class logits (B, ΣH·W, K), distances (B, ΣH·W, 4) and centreness (B, ΣH·W, 1)."""
        return answers(super().forward(x), self.training)


def answers(outputs: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
    """A dense head's outputs in float32; outside of training, class 0 has no chance, as no object bears it."""
    outputs = {name: precise(each) for name, each in outputs.items()}
    if not training:
        logits = outputs["cls_logits"]
        outputs["cls_logits"] = torch.cat([torch.full_like(logits[..., :1], float("-inf")), logits[..., 1:]], -1)
    return outputs


class RegionPool(MultiScaleRoIAlign):
    """torchvision's regions for maps of any number format: they are cut out in the boxes' float32, or better."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps (B, C, H, W), boxes (R, 4) of each image -> (ΣR, C, size, size), in the maps' number format."""
        maps = {name: precise(x[name]) for name in self.featmap_names}
        return super().forward(maps, boxes, image_shapes).to(x[self.featmap_names[0]].dtype)


def region_pool(strides: Sequence[int], size: int) -> RegionPool:
    """What cuts regions of size × size out of the pyramid's first maps, each out of the one that its area calls for.

    torchvision's own guesses the strides from the first images it sees, and keeps the guess: images one pixel high
    would spoil it.
    """
    pool = RegionPool([str(i) for i in range(len(strides))], size, sampling_ratio=2)
    settings: Any = pool
    settings.scales = [1 / each for each in strides]
    settings.map_levels = LevelMapper(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)
    return pool
