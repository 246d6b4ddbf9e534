"""Detectors as graphs of tensors: batches of one size, as many results for each image, and no loop over images.

    images (B, C, H, W), resized, normalised, and filled up with zeros to the right and below to multiples of 32,
    sizes (B, 2), the height and width of each image before that
        ->  boxes (B, D, 4) as x1, y1, x2, y2 in pixels of these images, scores (B, D), labels (B, D) from 1 on,
            of a detector with masks: masks (B, D, 28, 28) in 0 … 1, of the boxes
    without suppression (RetinaNet, FCOS)
        ->  boxes (B, A, 4), scores (B, A, K) of the classes 1 … K

An image with fewer than D objects is filled up with entries of score 0 and label 0. What torchvision's code does image
by image, with as many candidates as there happen to be, is done here for the batch with fixed numbers of candidates.

Shapes: B batch · A places of all maps, an anchor each · K classes · P proposals of an image · R regions of all images
    D detections · M candidates
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from acmix.export.suppression import suppressed
from acmix.heads.cascade import CascadeHeads
from acmix.heads.parts import precise
from acmix.ops.leaving import compact, fresh

# boxes below it are left out, as torchvision does: of proposals, and of results
LEAST_PROPOSAL, LEAST_BOX = 1e-3, 1e-2


class DetectorGraph(nn.Module):
    """A detector of `acmix.create_detector`, from prepared images to a fixed number of detections.

    Args:
        detector: in evaluation mode; it is changed: give a copy, such as `acmix.fold` makes.
        suppress: whether it ends with non-maximum suppression; else RetinaNet and FCOS give all they see.
    """

    detector: Any

    def __init__(self, detector: Any, suppress: bool = True) -> None:
        super().__init__()
        self.detector, self.suppress = with_open_norms(detector), suppress
        self.has_regions = hasattr(detector, "roi_heads")

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), (B, 2) -> the tensors of this file's head."""
        maps = self.detector.backbone(images)
        if self.has_regions:
            return self.of_regions(maps, sizes)
        boxes, scores = self.places(list(maps.values()), sizes)
        if not self.suppress:
            return torch.cat(boxes, 1), torch.cat(scores, 1)
        return self.best_places(boxes, scores)

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Those of each map, (A, 4): torchvision's, without the expanded grids of which torch.export fixes sizes."""
        generator: Any = self.detector.anchors if self.has_regions else self.detector.anchor_generator
        generator.set_cell_anchors(torch.promote_types(maps[0].dtype, torch.float32), maps[0].device)
        found = []
        for x, own, stride in zip(maps, generator.cell_anchors, generator.strides, strict=True):
            ones = own.new_ones(x.shape[2], x.shape[3])
            place = torch.stack([ones.cumsum(1) - 1, ones.cumsum(0) - 1] * 2, -1) * stride  # (H, W, 4)
            found.append((place[:, :, None] + own).flatten(0, 2))
        return found

    # RetinaNet and FCOS

    def places(self, maps: list[Tensor], sizes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes (B, A, 4) and scores (B, A, K) at each place of each map."""
        anchors = self.anchors(maps)
        counts = [each.shape[0] for each in anchors]
        classes, regression = self.detector.head.classification_head, self.detector.head.regression_head
        of_classes, of_boxes = ([part.conv(x) for x in maps] for part in (classes, regression))
        scores = whole(map(classes.cls_logits, of_classes), self.detector.num_classes + 1)[..., 1:].sigmoid()
        if hasattr(regression, "bbox_ctrness"):
            scores = (scores * whole(map(regression.bbox_ctrness, of_boxes), 1).sigmoid()).sqrt()
            boxes = self.from_points(whole(map(regression.bbox_reg, of_boxes), 4).relu(), torch.cat(anchors))
        else:
            boxes = self.from_anchors(whole(map(regression.bbox_reg, of_boxes), 4), torch.cat(anchors))
        # all maps at once: of a part of them, torch.export would ask how many images there are
        return list(clipped(boxes, sizes).split(counts, 1)), list(scores.split(counts, 1))

    def from_anchors(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Corrections (B, A, 4) of anchors (A, 4) -> boxes (B, A, 4)."""
        return decoded(self.detector.box_coder, deltas, anchors)

    def from_points(self, distances: Tensor, anchors: Tensor) -> Tensor:
        """Distances (B, A, 4) of the four sides from points, in units of the anchors (A, 4) -> boxes (B, A, 4)."""
        flat = self.detector.box_coder.decode(distances.flatten(0, 1), anchors.repeat(distances.shape[0], 1))
        return flat.view(distances.shape)

    def best_places(self, boxes: list[Tensor], scores: list[Tensor]) -> tuple[Tensor, ...]:
        """The detections of an image: of each map the best candidates, and of these the ones that stay."""
        detector, parts = self.detector, []
        for own, chances in zip(boxes, scores, strict=True):
            classes = chances.shape[2]
            values, index = best(fresh(chances).flatten(1), detector.topk_candidates)
            parts.append((rows(fresh(own), index // classes), values, index % classes))
        every, values, kinds = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        count, valid = scores[0].shape[2], values > detector.score_thresh
        stays = suppressed(every, values, kinds, valid, detector.nms_thresh, count)
        return chosen(every, torch.where(stays, values, -1.0), kinds + 1, detector.detections_per_img)

    # R-CNNs

    def of_regions(self, maps: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, ...]:
        """The detections of an image: of its proposals, those that stay."""
        proposals, real = self.proposals(list(maps.values()), sizes)
        place, image, regions = there(real, proposals)
        heads = self.detector.roi_heads
        if isinstance(heads, CascadeHeads):
            stages = heads.each_stage
            regions, logits, deltas = self.cascaded(stages, maps, regions, image, sizes)
            heads = stages[-1]
        else:
            stages = [heads]
            logits, deltas = self.predicted(heads, maps, regions, image)
        boxes = clipped(decoded(heads.box_coder, deltas, regions[:, None]), sizes[image])[:, 1:]  # (R, K, 4)
        scores = logits.softmax(1)[:, 1:]
        large = is_large(boxes, LEAST_BOX) & (scores > heads.score_thresh)
        # back to as many for each image
        classes = scores.shape[1]
        counted = torch.where(large, scores, -1.0)
        every = by_class(spread(boxes, place, real))  # (B·K, P, 4)
        values = by_class(spread(counted + 1, place, real)[..., None])[..., 0] - 1  # -1 where there is no region
        # each class is suppressed as if it were an image of its own
        alone = torch.zeros_like(values, dtype=torch.int64)
        stays = suppressed(every, values, alone, values > heads.score_thresh, heads.nms_thresh, 1)
        values = torch.where(stays, values, -1.0).view(real.shape[0], classes * real.shape[1])
        labels = (torch.arange(classes, device=sizes.device) + 1).repeat_interleave(real.shape[1])
        labels = labels.repeat(real.shape[0], 1)
        found = chosen(every.view(*values.shape, 4), values, labels, heads.detections_per_img)
        return (*found, self.masks(stages, maps, *found)) if self.detector.has_masks else found

    def proposals(self, maps: list[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The best boxes (B, P, 4) to look at, and which of them there really are, (B, P)."""
        finder = self.detector.rpn
        anchors = self.anchors(maps)
        parts = []
        for number, (logits, deltas, own) in enumerate(zip(*finder.head(maps), anchors, strict=True)):
            values, index = best(by_place(logits, 1).flatten(1), finder.pre_nms_top_n())
            boxes = decoded(finder.box_coder, rows(by_place(deltas, 4), index), own[index])
            parts.append((clipped(boxes, sizes), values, torch.full_like(index, number)))
        boxes, values, levels = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        scores = values.sigmoid()
        valid = is_large(boxes, LEAST_PROPOSAL) & (scores >= finder.score_thresh) & (values > -torch.inf)
        stays = suppressed(boxes, scores, levels, valid, finder.nms_thresh, len(maps))
        values, index = best(torch.where(stays, scores, -1.0), finder.post_nms_top_n())
        return rows(boxes, index), values >= 0

    def predicted(self, heads: Any, maps: dict[str, Tensor], regions: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, 1 + K) and corrections (R, 1 + K, 4) of the regions."""
        logits, deltas = heads.box_predictor(heads.box_head(cut_out(heads.box_roi_pool, maps, regions, image)))
        return logits, deltas.view(deltas.shape[0], -1, 4)

    def cascaded(
        self, stages: Sequence[Any], maps: dict[str, Tensor], regions: Tensor, image: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The regions of the last stage, its corrections, and logits whose softmax is the mean of all stages'."""
        chances = []
        for stage in stages[:-1]:
            logits, deltas = self.predicted(stage, maps, regions, image)
            chances.append(logits.softmax(1))
            likeliest = logits[:, 1:].argmax(1, keepdim=True) + 1  # (R, 1)
            own = deltas.gather(1, likeliest[:, :, None].expand(-1, -1, 4))[:, 0]
            regions = clipped(decoded(stage.box_coder, own, regions), sizes[image])
        logits, deltas = self.predicted(stages[-1], maps, regions, image)
        return regions, torch.stack([*chances, logits.softmax(1)]).mean(0).log(), deltas

    def masks(
        self, stages: Sequence[Any], maps: dict[str, Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> Tensor:
        """The masks of the detections, (B, D, m, m) from 0 to 1; of stages, their mean."""
        place, image, regions = there(labels > 0, boxes)
        classes = torch.cat([labels.flatten()[place], labels.new_ones(1)])
        found = []
        for stage in stages:
            logits = stage.mask_predictor(stage.mask_head(cut_out(stage.mask_roi_pool, maps, regions, image)))
            own = classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
            found.append(logits.gather(1, own)[:, 0].sigmoid())
        return spread(torch.stack(found).mean(0), place, labels > 0)


class OpenGroupNorm(nn.Module):
    """A GroupNorm of which torch.export does not ask whether a map is one pixel.

    Args:
        norm: whose weights it takes.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        batch, channels, height, width = x.shape
        flat = fresh(x).reshape(batch, self.num_groups, channels // self.num_groups * height * width)
        variance, mean = torch.var_mean(flat, 2, correction=0, keepdim=True)
        flat = (flat - mean) * (variance + self.eps).rsqrt()
        return flat.view(x.shape) * self.weight[:, None, None] + self.bias[:, None, None]


def with_open_norms(module: nn.Module) -> nn.Module:
    """The module, in which every GroupNorm became an `OpenGroupNorm`."""
    for name, child in module.named_children():
        if type(child) is nn.GroupNorm:
            setattr(module, name, OpenGroupNorm(child))
        else:
            with_open_norms(child)
    return module


def best(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The highest values (B, M) of each row and where they stand, (B, most); −inf at place 0 where a row has fewer."""
    # filled up, so that there are always enough
    none = values.new_full((values.shape[0], most), -torch.inf)
    found, index = torch.cat([values, none], 1).topk(most, 1)
    return found, torch.where(index < values.shape[1], index, 0)


def rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, M, n), (B, m) -> (B, m, n)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def by_place(x: Tensor, numbers: int) -> Tensor:
    """A map (B, n·numbers, H, W) -> (B, H·W·n, numbers)."""
    batch, channels, height, width = x.shape
    x = fresh(x.view(batch, channels // numbers, numbers, height, width).permute(0, 3, 4, 1, 2))
    return x.reshape(batch, height * width * (channels // numbers), numbers)


def whole(maps: Iterable[Tensor], numbers: int) -> Tensor:
    """`by_place` of all maps, one behind the other, in float32 at least: (B, A, numbers)."""
    return torch.cat([by_place(precise(x), numbers) for x in maps], 1)


def decoded(coder: Any, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Corrected boxes: deltas (…, 4) of boxes (…, 4), which may be the same for a whole dimension."""
    # added, not expanded: to flatten what is expanded, torch.export would fix sizes
    boxes = boxes + torch.zeros_like(deltas)
    return coder.decode_single(deltas.reshape(-1, 4), boxes.reshape(-1, 4)).view(deltas.shape)


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, …, 4) inside of their images, of these heights and widths (B, 2)."""
    most = sizes.flip(1).repeat(1, 2)  # (B, 4): w, h, w, h
    most = most.view(-1, *[1] * (boxes.dim() - 2), 4)
    return boxes.clamp(min=0).minimum(most)


def is_large(boxes: Tensor, least: float) -> Tensor:
    """Whether both sides of boxes (…, 4) are at least so long."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(-1)


def by_class(values: Tensor) -> Tensor:
    """(B, P, K, n) -> (B·K, P, n), in one piece of memory."""
    batch, regions, classes, numbers = values.shape
    return compact(values.permute(0, 2, 1, 3)).view(batch * classes, regions, numbers)


def there(real: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes (B, P, 4) that are real, (B, P), and behind them an empty one: a network cannot run on none.

    Returns:
        The places of the real ones (R,), and the images (R + 1,) and corners (R + 1, 4) of all.
    """
    place = real.flatten().nonzero()[:, 0]
    image = torch.cat([place // real.shape[1], place.new_zeros(1)])
    return place, image, torch.cat([boxes.flatten(0, 1)[place], boxes.new_zeros(1, 4)])


def spread(values: Tensor, place: Tensor, real: Tensor) -> Tensor:
    """Of the boxes that `there` gave, (R + 1, …), to their places among (B, P): (B, P, …), zeros elsewhere."""
    empty = values.new_zeros(real.shape[0] * real.shape[1], *values.shape[1:])
    return empty.index_copy(0, place, values[:-1]).view(*real.shape, *values.shape[1:])


def chosen(boxes: Tensor, scores: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of each image: boxes (B, M, 4), scores (B, M), −1 for none, and labels (B, M) -> D of each."""
    values, index = best(scores, most)
    real = values > 0
    found = torch.where(real[:, :, None], rows(boxes, index), 0.0)
    return found, torch.where(real, values, 0.0), torch.where(real, labels.gather(1, index), 0)


def cut_out(pool: Any, maps: dict[str, Tensor], regions: Tensor, image: Tensor) -> Tensor:
    """Regions (R, 4) of the images with these numbers (R,) -> (R, C, side, side), each from the map of its size."""
    mapper, wanted = pool.map_levels, [maps[name] for name in pool.featmap_names]
    level = mapper([regions])  # (R,)
    rois = torch.cat([image[:, None].to(regions.dtype), regions], 1)
    channels, side = wanted[0].shape[1], pool.output_size
    found = regions.new_zeros(regions.shape[0], channels, *side)
    for number, (x, scale) in enumerate(zip(wanted, pool.scales, strict=True)):
        place = (level == number).nonzero()[:, 0]
        part = roi_align(precise(x), rois[place], side, scale, pool.sampling_ratio)
        found = found.index_copy(0, place, part)
    return found.to(wanted[0].dtype)
