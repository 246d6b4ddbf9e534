"""Cascade R-CNN: three heads in a row, each on the boxes that the one before it improved.

Shapes: R regions of all images · K classes and the background · n objects · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

# IoU from which on a box is an object, by stage
THRESHOLDS = (0.5, 0.6, 0.7)
# one over the standard deviations of box deltas: (0.1, 0.1, 0.2, 0.2), a half and a third of it
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
# what the losses of a stage count
LOSS_WEIGHTS = (1.0, 0.5, 0.25)
# what the loss of boxes counts besides
GIOU_WEIGHT = 10.0

Targets = Sequence[dict[str, Tensor]]
Sizes = list[tuple[int, int]]


class Sample(NamedTuple):
    """The regions that a stage learns from, one entry an image.

    Args:
        boxes: (R, 4).
        labels: (R,), 0 for the background.
        objects: (R,), which of the image's objects each region is nearest to.
        is_given: (R,), whether a region is an object's own box, added so that there are good ones.
        found: places of the regions with a label above 0. They are looked for once: a GPU is waited for each time.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    objects: list[Tensor]
    is_given: list[Tensor]
    found: list[Tensor]

    @property
    def found_in_all(self) -> Tensor:
        """`found` among the regions of all images, one image behind the other."""
        counts = [0, *(len(each) for each in self.labels[:-1])]
        return torch.cat([each + start for each, start in zip(self.found, accumulate(counts), strict=True)])


class Stage(RoIHeads):
    """One stage: torchvision's heads for regions, whose boxes learn by GIoU, and whose boxes come out improved.

    Args: those of torchvision's `RoIHeads`.
    """

    def predict(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Class logits (R, K) and box deltas (R, K, 4) of the boxes."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, sizes)))
        return logits, deltas.view(*logits.shape, 4)

    def sample(self, proposals: list[Tensor], targets: Targets) -> Sample:
        """Chooses the regions to learn from among the proposals and the objects' own boxes."""
        given = [each["boxes"].to(proposals[0].dtype) for each in targets]
        boxes = self.add_gt_proposals(proposals, given)
        objects, labels = self.assign_targets_to_proposals(boxes, given, [each["labels"] for each in targets])
        is_given = [
            torch.arange(len(all_), device=all_.device) >= len(all_) - len(own)
            for all_, own in zip(boxes, given, strict=True)
        ]
        chosen = self.subsample(labels)
        boxes, labels, objects, is_given = (
            [each[index] for each, index in zip(part, chosen, strict=True)]
            for part in (boxes, labels, objects, is_given)
        )
        return Sample(boxes, labels, objects, is_given, [each.nonzero()[:, 0] for each in labels])

    def losses(self, logits: Tensor, deltas: Tensor, sample: Sample, targets: Targets) -> dict[str, Tensor]:
        """The losses of classes and boxes of a sample.

        L_class = mean cross-entropy;    L_box = 10 · Σ_objects (1 − GIoU) / R
        """
        labels, boxes, place = torch.cat(sample.labels), torch.cat(sample.boxes), sample.found_in_all
        found = self.box_coder.decode_single(deltas[place, labels[place]], boxes[place])
        # an image without objects has no rows to choose from, and none is chosen
        wanted = [
            target["boxes"][objects[places]]
            for target, objects, places in zip(targets, sample.objects, sample.found, strict=True)
        ]
        distance = generalized_box_iou_loss(found, torch.cat(wanted).to(found.dtype), reduction="sum")
        return {
            "classifier": F.cross_entropy(logits, labels),
            "box_reg": GIOU_WEIGHT * distance / len(labels),
        }

    def mask_loss(self, features: dict[str, Tensor], sample: Sample, targets: Targets, sizes: Sizes) -> Tensor:
        """The loss of the masks of the regions that are objects."""
        boxes = [each[places] for each, places in zip(sample.boxes, sample.found, strict=True)]
        objects = [each[places] for each, places in zip(sample.objects, sample.found, strict=True)]
        masks, labels = ([each[key] for each in targets] for key in ("masks", "labels"))
        return maskrcnn_loss(self.mask_logits(features, boxes, sizes), boxes, masks, labels, objects)

    def mask_logits(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """(R, K, 28, 28)."""
        pool, head, predictor = self.mask_roi_pool, self.mask_head, self.mask_predictor
        assert pool is not None
        assert head is not None
        assert predictor is not None
        return predictor(head(pool(features, boxes, sizes)))

    @torch.no_grad()
    def improved(
        self, logits: Tensor, deltas: Tensor, boxes: list[Tensor], sizes: Sizes, labels: list[Tensor] | None = None
    ) -> list[Tensor]:
        """The boxes moved as the deltas of their class say: of a region's label, else of the likeliest class."""
        classes = logits[:, 1:].argmax(1) + 1  # (R,)
        if labels is not None:
            known = torch.cat(labels)
            classes = torch.where(known > 0, known, classes)
        moved = self.box_coder.decode_single(
            deltas[torch.arange(len(classes), device=classes.device), classes], torch.cat(boxes)
        )
        of_images = moved.split([len(each) for each in boxes])
        return [clip_boxes_to_image(each, size) for each, size in zip(of_images, sizes, strict=True)]


class CascadeHeads(nn.Module):
    """The stages one after the other, in the place of torchvision's `RoIHeads`.

    In training each stage learns from the boxes of the one before, at a higher IoU. In evaluation the last stage's
    boxes count; their scores are the mean of what the stages' classifiers say of a region on its way, and their masks
    the mean of the stages' masks on the final boxes. No gradient flows from a stage into the boxes it is given.

    Args:
        stages: three.

    Source: Cai and Vasconcelos, Cascade R-CNN (CVPR 2018).
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def each_stage(self) -> list[Stage]:
        """The stages, for a type checker."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    def has_mask(self) -> bool:
        """Whether the stages have masks, as torchvision asks."""
        return self.each_stage[0].has_mask()

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Maps, proposals (R, 4) of each image and its size -> detections in evaluation, and losses in training."""
        if self.training:
            assert targets is not None
            return [], self.all_losses(features, proposals, image_shapes, targets)
        return self.detections(features, proposals, image_shapes), {}

    def all_losses(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        """The weighted losses of all stages, named stage0_classifier, stage0_box_reg, stage0_mask, …"""
        losses = {}
        for i, (stage, weight) in enumerate(zip(self.each_stage, LOSS_WEIGHTS, strict=True)):
            sample = stage.sample(boxes, targets)
            logits, deltas = stage.predict(features, sample.boxes, sizes)
            found = stage.losses(logits, deltas, sample, targets)
            if stage.has_mask():
                found["mask"] = stage.mask_loss(features, sample, targets, sizes)
            losses |= {f"stage{i}_{name}": weight * loss for name, loss in found.items()}
            if i + 1 == len(self.stages):
                break
            moved = stage.improved(logits.detach(), deltas.detach(), sample.boxes, sizes, sample.labels)
            # objects' own boxes are added again by the next stage
            boxes = [each[~given] for each, given in zip(moved, sample.is_given, strict=True)]
        return losses

    def detections(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes) -> list[dict[str, Tensor]]:
        """Boxes, labels, scores and masks (n, 1, 28, 28) of each image."""
        *others, last = self.each_stage
        chances = []
        for stage in others:
            logits, deltas = stage.predict(features, boxes, sizes)
            chances.append(logits.softmax(1))
            boxes = stage.improved(logits, deltas, boxes, sizes)
        logits, deltas = last.predict(features, boxes, sizes)
        mean = torch.stack([*chances, logits.softmax(1)]).mean(0)  # (R, K)
        # it takes logits: those whose softmax is the mean
        found = last.postprocess_detections(mean.log(), deltas.flatten(1), boxes, sizes)
        results = [
            {"boxes": image_boxes, "labels": labels, "scores": scores}
            for image_boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.has_mask():
            for result, masks in zip(results, self.masks(features, results, sizes), strict=True):
                result["masks"] = masks
        return results

    def masks(self, features: dict[str, Tensor], results: list[dict[str, Tensor]], sizes: Sizes) -> Sequence[Tensor]:
        """The mean over the stages of the masks of each image's boxes, (n, 1, 28, 28) in 0 … 1."""
        boxes = [each["boxes"] for each in results]
        labels = torch.cat([each["labels"] for each in results])
        row = torch.arange(len(labels), device=labels.device)
        chances = [stage.mask_logits(features, boxes, sizes)[row, labels].sigmoid() for stage in self.each_stage]
        return torch.stack(chances).mean(0)[:, None].split([len(each) for each in boxes])
