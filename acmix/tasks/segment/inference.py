"""Logits of an image of any size: at once or in sliding windows, at one scale or several, plain or also mirrored.

Shapes: K classes · h w the image's height and width · H W those of the result
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# elements of a resized map that are held at once where only the best class is asked for; 256 MiB
MOST_ELEMENTS = 2**26
# elements of maps of which a processor's cache holds a part; 4 MiB
MOST_IN_CACHE = 2**20


def logits_of(
    model: nn.Module,
    image: Tensor,
    size: tuple[int, int],
    *,
    crop: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Gives the logits of one image at its original size.

    Args:
        model: (1, 3, h, w) -> (1, K, h, w) logits, in evaluation mode.
        image: (3, h, w), normalised.
        size: (H, W), the size the image had before it was resized for the model.
        crop: side or (height, width) of the windows, in pixels of the image; None: the whole image at once.
        stride: steps of the windows, down and across; two thirds of the crop by default.
        scales: factors by which the image is resized first.
        flip: whether the mirrored image is looked at, too.
        memory_format: of what the model is given.

    Returns:
        (K, H, W) float32. Of one scale without flip, the model's logits; of several, the logarithm of the mean of their
        probabilities.

    Raises:
        ValueError: a crop or stride below 1, a stride above the crop, or a scale that is not above 0.
    """
    small = logits_at_its_size(
        model, image, crop=crop, stride=stride, scales=scales, flip=flip, memory_format=memory_format
    )
    return resized(small, size)


def logits_at_its_size(
    model: nn.Module,
    image: Tensor,
    *,
    crop: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Gives the logits of one image at the size it has here, (K, h, w) float32; see `logits_of`."""
    window, step = checked(crop, stride, scales)
    height, width = image.shape[-2:]
    looks = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    total: Tensor | None = None
    for scale, mirrored in looks:
        seen = image if scale == 1 else resized(image, (side(height, scale), side(width, scale)))
        seen = seen.flip(-1) if mirrored else seen
        seen = seen[None].contiguous(memory_format=memory_format)  # (1, 3, h, w)
        logits = model(seen)[0].float() if window is None else windows(model, seen, window, step)  # (K, h, w)
        logits = resized(logits.flip(-1) if mirrored else logits, (height, width))
        if len(looks) == 1:
            return logits
        probabilities = logits.softmax(dim=0)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    # a probability of 0 has no logarithm
    return total.div_(len(looks)).clamp_min_(torch.finfo(total.dtype).tiny).log_()


def windows(model: nn.Module, image: Tensor, window: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """The mean of the logits of overlapping windows, one after the other: (1, 3, h, w) -> (K, h, w).

    The last window of a row or column is moved inside. An image smaller than the window is padded with zeros, which are
    the mean colour, to the right and below.
    """
    height, width = image.shape[-2:]
    below, right = max(0, window[0] - height), max(0, window[1] - width)
    if below or right:
        image = F.pad(image, (0, right, 0, below))
    total = torch.zeros(0)
    times = torch.zeros(image.shape[-2:], device=image.device)  # (h, w)
    for top in starts(image.shape[-2], window[0], step[0]):
        for left in starts(image.shape[-1], window[1], step[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = model(image[:, :, rows, columns])[0].float()  # (K, *window)
            if not total.numel():
                total = logits.new_zeros(logits.shape[0], *image.shape[-2:])  # (K, h, w)
            total[:, rows, columns] += logits
            times[rows, columns] += 1
    return (total / times)[:, :height, :width]


def starts(length: int, window: int, step: int) -> Iterator[int]:
    """Where windows begin, so that the last ends where the image does."""
    yield from range(0, length - window, step)
    yield length - window


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (C, h, w) at another size, bilinearly, the corners of the outer pixels aligned: (C, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def best_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The best class of each pixel of logits (K, h, w) resized to (H, W): (H, W) int64.

    The same as `resized(logits, size).argmax(0)`, some classes at a time, in memory that does not grow with K.
    """
    if size[0] * size[1] > MOST_ELEMENTS:
        return best_in_strips(logits, size)
    step = MOST_ELEMENTS // (size[0] * size[1])
    best = torch.zeros(size, dtype=torch.int64, device=logits.device)
    largest = torch.full(size, -torch.inf, device=logits.device)
    for start in range(0, len(logits), step):
        value, index = resized(logits[start : start + step], size).max(dim=0)  # (H, W)
        better = value > largest
        best = torch.where(better, index + start, best)
        largest = torch.where(better, value, largest)
    return best


def best_in_strips(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`best_classes` of a very large image, some rows at a time, which stay in the processor's cache."""
    classes, height, _ = logits.shape
    best = torch.empty(size, dtype=torch.int64, device=logits.device)
    rows = max(1, MOST_IN_CACHE // (classes * size[1]))
    for top in range(0, size[0], rows):
        places = torch.arange(top, min(top + rows, size[0]), device=logits.device)
        # as PyTorch places the middles of pixels
        place = ((places + 0.5) * (height / size[0]) - 0.5).clamp(min=0)  # (rows,)
        above = place.long()
        below, part = (above + 1).clamp(max=height - 1), (place - above)[:, None]
        lines = logits[:, above] * (1 - part) + logits[:, below] * part  # (K, rows, w)
        wide = F.interpolate(
            lines.flatten(0, 1)[None], size=size[1], mode="linear", align_corners=False
        )  # (1, K*rows, W)
        # several times as fast as argmax
        best[top : top + rows] = wide.view(classes, len(places), size[1]).max(dim=0).indices
    return best


def checked(
    crop: int | tuple[int, int] | None, stride: int | tuple[int, int] | None, scales: Sequence[float]
) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """The windows' sizes and steps, (down, across)."""
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales={tuple(scales)}: give at least one factor, each above 0")
    if crop is None:
        return None, (1, 1)
    window = (crop, crop) if isinstance(crop, int) else crop
    if stride is None:
        step = (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    else:
        step = (stride, stride) if isinstance(stride, int) else stride
    if not all(1 <= one <= other for one, other in zip(step, window, strict=True)):
        raise ValueError(f"stride={stride} with crop={crop}: give a stride of 1 to the crop's side")
    return window, step


def side(length: int, scale: float) -> int:
    """A scaled length, at least one pixel."""
    return max(1, round(length * scale))
