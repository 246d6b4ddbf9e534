"""Keeps the few worst images of a data set while it goes by, and makes pictures for a page of them."""

from __future__ import annotations

import base64
import heapq
import io
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

Item = TypeVar("Item")
# pixels of the longer side of a picture on a page
LARGEST = 720


class Worst(Generic[Item]):
    """The items of the largest badness, of those that were offered.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.seen = limit, 0
        # a heap whose first entry is the least bad; the count breaks ties before items would be compared
        self.heap: list[tuple[float, int, Item]] = []

    def would_take(self, badness: float) -> bool:
        """Whether an item would be kept, so that only such a one has to be made."""
        return self.limit > 0 and (len(self.heap) < self.limit or badness > self.heap[0][0])

    def offer(self, badness: float, item: Item) -> None:
        """Takes an item in."""
        self.seen += 1
        entry = (badness, -self.seen, item)
        if len(self.heap) < self.limit:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heapreplace(self.heap, entry)

    def chosen(self) -> list[Item]:
        """The worst first."""
        return [item for _, _, item in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


@dataclass(frozen=True)
class Picture:
    """A picture on a page: `uri` holds it; `title` and `lines` stand by it."""

    uri: str
    title: str
    lines: tuple[str, ...] = ()


def small_copy(image: Tensor) -> tuple[Image.Image, float]:
    """An image (3, h, w) from 0 to 1, or (1, h, w) in grey, as a picture for a page, and by how much it is smaller."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    factor = min(1.0, LARGEST / max(picture.size))
    if factor < 1:
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return picture, factor


def data_uri(picture: Image.Image) -> str:
    """A picture as a part of the page."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
