"""Non-maximum suppression of a whole batch inside a graph, with what the graph's runtime has for it.

Shapes: B images · M candidates of an image
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Which candidates stay: of two of a group that overlap by more than the threshold, the one with the higher score.

    The same as torchvision's `batched_nms` image by image, without a loop over the images.

    Args:
        boxes: (B, M, 4), inside of the image.
        scores: (B, M), from 0 to 1.
        groups: (B, M), whole numbers; boxes of different groups do not meet.
        valid: (B, M), bool; the others do not stay.
        threshold: of the intersection over the union.

    Returns:
        (B, M), bool.
    """
    onnx = torch.onnx.is_in_onnx_export()
    # groups are moved apart; in float64, where a box stays the same to the last bit that counts
    apart = boxes if onnx else boxes.double()
    step = apart.amax((1, 2), keepdim=True) + 1  # (B, 1, 1)
    apart = apart + groups[:, :, None].to(apart.dtype) * step
    if onnx:
        found = of_onnx(apart, torch.where(valid, scores, -1.0), threshold)  # (n, 3)
        return at_places(found[:, 0] * valid.shape[1] + found[:, 2], valid)
    # torchvision's operator knows no batch: images are moved apart, too
    each = torch.arange(valid.shape[0], device=boxes.device).to(apart.dtype)[:, None, None]
    apart = (apart + each * (apart.amax() + 1)).flatten(0, 1)
    place = valid.flatten().nonzero()[:, 0]
    place = place[nms(apart[place], scores.flatten()[place].double(), threshold)]
    return at_places(place, valid)


def at_places(place: Tensor, like: Tensor) -> Tensor:
    """(B, M), true at these places (n,) of all."""
    none = torch.zeros_like(like).flatten()
    return none.scatter(0, place, torch.ones_like(place, dtype=torch.bool)).view(like.shape)


def of_onnx(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """ONNX's operator: boxes (B, M, 4) and scores (B, M), below 0 for none -> (n, 3): image, 0 and candidate."""
    count = torch.zeros_like(scores, dtype=torch.int64).flatten().nonzero().shape[0]
    like = scores.device
    return torch.onnx.ops.symbolic(
        "NonMaxSuppression",
        (
            boxes,
            scores[:, None],
            torch.full((1,), 2**62, dtype=torch.int64, device=like),
            torch.full((1,), threshold, device=like),
            torch.zeros(1, device=like),
        ),
        dtype=torch.int64,
        shape=(count, 3),
        version=11,
    )
