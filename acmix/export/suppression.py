"""Non-maximum suppression of a whole batch inside a graph, with what the graph's runtime has for it.

Shapes: B images · M candidates of an image · G groups
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, count: int) -> Tensor:
    """Which candidates stay: of two of a group that overlap by more than the threshold, the one with the higher score.

    The same as torchvision's `nms` of each group of each image, without a loop over them. In ONNX, groups are the
    operator's classes, which takes 4·B·G·M bytes for their scores: 24 MB an image for 1,203 classes and 5,000
    candidates. Where candidates come sorted by group, give each group as an image of its own: that takes no more.

    Args:
        boxes: (B, M, 4), inside of the image.
        scores: (B, M), from 0 to 1.
        groups: (B, M), whole numbers from 0 to count - 1; boxes of different groups do not meet.
        valid: (B, M), bool; the others do not stay.
        threshold: of the intersection over the union.
        count: of groups, G.

    Returns:
        (B, M), bool.
    """
    if torch.onnx.is_in_onnx_export():
        chances = torch.where(valid, scores, -1.0)[:, None]  # (B, 1, M)
        if count > 1:
            own = groups[:, None] == torch.arange(count, device=groups.device)[:, None]  # (B, G, M)
            chances = torch.where(own, chances, -1.0)
        found = of_onnx(boxes, chances, threshold)  # (n, 3)
        return at_places(found[:, 0] * valid.shape[1] + found[:, 2], valid)
    # torchvision's operator knows neither groups nor a batch: they are moved apart, in float64, where a box stays the
    # same to the last bit that counts
    apart = boxes.double()
    step = apart.amax() + 1
    each = torch.arange(valid.shape[0], device=boxes.device)[:, None] * count + groups  # (B, M)
    apart = (apart + each[:, :, None] * step).flatten(0, 1)
    place = valid.flatten().nonzero()[:, 0]
    place = place[nms(apart[place], scores.flatten()[place].double(), threshold)]
    return at_places(place, valid)


def at_places(place: Tensor, like: Tensor) -> Tensor:
    """(B, M), true at these places (n,) of all."""
    none = torch.zeros_like(like).flatten()
    return none.scatter(0, place, torch.ones_like(place, dtype=torch.bool)).view(like.shape)


def of_onnx(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """ONNX's operator: boxes (B, M, 4) and scores (B, G, M), below 0 for none -> (n, 3): image, group and candidate."""
    count = torch.zeros_like(scores[:, 0], dtype=torch.int64).flatten().nonzero().shape[0]
    like = scores.device
    return torch.onnx.ops.symbolic(
        "NonMaxSuppression",
        (
            boxes,
            scores,
            torch.full((1,), 2**62, dtype=torch.int64, device=like),
            torch.full((1,), threshold, device=like),
            torch.zeros(1, device=like),
        ),
        dtype=torch.int64,
        shape=(count, 3),
        version=11,
    )
