"""From pictures to the batch that a detector reads, and from its boxes back to the pictures.

Shapes: h, w picture · n objects · m side of a head's masks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from acmix.errors import UsageError
from acmix.ops.leaving import leaves_pytorch

# of the masks of one picture: a hundred objects on 40 million pixels
MOST_BYTES = 2**34


class Transform(GeneralizedRCNNTransform):
    """Normalises, resizes, and pads to a batch whose sides are multiples of 32; results go back to the pictures' sizes.

    A picture is scaled until its shorter side is `min_size`, or its longer side `max_size` if that is reached first;
    no side gets shorter than a pixel. In training one of several `min_size` is drawn for each picture; in evaluation
    the largest holds.

    Args:
        min_size: one length, or several.
        max_size: of the longer side.
        mean: of the channels, in 0 … 1.
        std: of the channels.

    Attributes:
        resize_in_training: False where the data is resized already.
        resize_in_evaluation: the same for evaluation.
        resizes: whether it resizes in the mode it is in.

    Raises:
        UsageError: lengths that are no lengths.
    """

    def __init__(
        self, min_size: int | Sequence[int], max_size: int, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        sizes = [min_size] if isinstance(min_size, int) else sorted(min_size)
        if not sizes or sizes[0] < 1 or max_size < 1:
            raise UsageError(f"min_size={min_size}, max_size={max_size}; expected lengths of at least one pixel")
        # torchvision's type says one number, and its code takes several
        several: Any = tuple(sizes)
        super().__init__(several, max_size, [*mean], [*std])
        self.resize_in_training = self.resize_in_evaluation = True

    @property
    def resizes(self) -> bool:
        """Whether pictures are resized in the mode it is in."""
        return self.resize_in_training if self.training else self.resize_in_evaluation

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(C, h, w) and its objects -> both at the size that they are read in."""
        if not self.resizes:
            return image, target
        sizes: Any = self.min_size
        before = image.shape[-2:]
        after = size_within(before, self.torch_choice([*sizes]) if self.training else sizes[-1], self.max_size)
        image = F.interpolate(image[None], size=after, mode="bilinear", align_corners=False)[0]
        if target is None:
            return image, None
        target["boxes"] = resize_boxes(target["boxes"], [*before], [*after])
        if "masks" in target:
            target["masks"] = resized_masks(target["masks"], after)
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes and masks of the batch's images, of image_shapes -> those of the pictures; as they are in training."""
        if self.training or leaves_pytorch():
            return super().postprocess(result, image_shapes, original_image_sizes)
        for found, before, after in zip(result, image_shapes, original_image_sizes, strict=True):
            found["boxes"] = resize_boxes(found["boxes"], [*before], [*after])
            if "masks" in found:
                found["masks"] = pasted_masks(found["masks"], found["boxes"], after)
        return result


def pasted_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, 1, m, m) of what is in boxes (n, 4) -> the picture's, (n, 1, h, w), 0 outside of the boxes.

    The same as torchvision's `paste_masks_in_image`, which reads each corner of each box from the device by itself and
    holds all masks twice.

    Raises:
        UsageError: they would take more than `MOST_BYTES`.
    """
    height, width = size
    needed = len(masks) * height * width * masks.element_size()
    if needed > MOST_BYTES:
        raise UsageError(
            f"the masks of {len(masks)} objects in a picture of {width} × {height} pixels would take "
            f"{needed / 2**30:,.0f} GiB; make the picture smaller, or set task.args.detections lower"
        )
    # a pixel more on each side, or a box's edge would be sharper than its inside
    masks, scale = expand_masks(masks, 1)
    corners = expand_boxes(boxes, scale).long().tolist()
    found = masks.new_zeros(len(masks), 1, height, width)
    for i, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, corners, strict=True)):
        left, right, top, bottom = max(x0, 0), min(x1 + 1, width), max(y0, 0), min(y1 + 1, height)
        if left < right and top < bottom:
            drawn = F.interpolate(mask[None], size=(y1 - y0 + 1, x1 - x0 + 1), mode="bilinear", align_corners=False)[0]
            found[i, :, top:bottom, left:right] = drawn[:, top - y0 : bottom - y0, left - x0 : right - x0]
    return found


def size_within(size: Sequence[int], shorter: int, longest: int) -> tuple[int, int]:
    """(h, w) scaled until the shorter side is `shorter`, or the longer `longest` if that is less; at least (1, 1)."""
    scale = min(shorter / min(size), longest / max(size))
    height, width = (max(1, int(each * scale + 0.5)) for each in size)
    return height, width


def resized_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, h, w) -> (n, *size), by the nearest pixel."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[:, None].float(), size=size)[:, 0].to(masks.dtype)
