"""A trained model in the form that leaves: folded, float32 outside, with every size open that can be.

Shapes: B batch · C channels · h, w image · H, W image filled up · K classes
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from acmix.errors import UsageError
from acmix.export import options
from acmix.export.detector import DetectorGraph
from acmix.heads.detectors import DENSE
from acmix.layers.fold import fold
from acmix.tools.description import MULTIPLE, sides_of

PRECISIONS: dict[str, torch.dtype] = dict(
    zip(options.PRECISIONS, (torch.float32, torch.float16, torch.bfloat16), strict=True)
)
# most images, and most pixels a side, that graphs are asked to take; an open size needs some bound
MOST_IMAGES, MOST_STEPS = 2**16, 2**12
# a detector's example has no map of one pixel, which would be another case to PyTorch's exporters
LEAST_SIDE = 256


@dataclass(frozen=True)
class Form:
    """What is written.

    Args:
        module: images and perhaps their sizes -> tensors, in float32.
        inputs: their names.
        outputs: their names.
        examples: values of the inputs.
        open_sizes: of each input, the names of the dimensions that are open, as `torch.export` takes them.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]
    open_sizes: tuple[dict[int, Any], ...]


class Outside(nn.Module):
    """A network in its own number format, with float32 outside.

    Args:
        inner: the network.
        dtype: its number format.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K) or (B, K, h, w)."""
        return self.inner(images.to(self.dtype)).float()


class OutsideDetector(nn.Module):
    """The same of a detector, whose heads give float32 already.

    Args:
        inner: the detector's graph.
        dtype: number format of its weights.
    """

    def __init__(self, inner: DetectorGraph, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See `acmix.export.detector`."""
        return self.inner(images.to(self.dtype), sizes)


def form_of(
    model: nn.Module,
    task: str,
    *,
    img_size: int | tuple[int, int],
    in_chans: int,
    dtype: torch.dtype,
    suppress: bool,
    fixed_size: bool = False,
) -> Form:
    """The form of a trained model; the model stays as it is.

    Args:
        model: in evaluation mode, on the CPU.
        task: "classify", "detect" or "segment".
        img_size: of its images.
        in_chans: their channels.
        dtype: number format of the weights in the file.
        suppress: of a detector, whether its non-maximum suppression is part of it.
        fixed_size: of a classifier: whether it takes images of img_size alone.

    Raises:
        UsageError: an R-CNN without suppression.
    """
    folded = fold(model)
    for each in (*folded.parameters(), *folded.buffers()):
        # folded weights may be parts of others, of which a file would hold the whole
        each.data = each.data.clone(memory_format=torch.contiguous_format)
    side = sides_of(img_size)
    batch = torch.export.Dim("batch", max=MOST_IMAGES)
    if task == "detect":
        body: Any = folded
        if not suppress and body.head_name not in DENSE:
            raise UsageError(
                f"{body.head_name} suppresses proposals inside of the network: it cannot be exported without "
                f"suppression; leave the option out (of {' and '.join(DENSE)} it can be left out)"
            )
        graph = OutsideDetector(DetectorGraph(body, suppress), dtype)
        images = structured(2, in_chans, *(max(LEAST_SIDE, filled(each)) for each in side))
        sizes = torch.tensor([[images.shape[2], images.shape[3]]] * 2, dtype=torch.float32)
        rows, columns = (MULTIPLE * torch.export.Dim(name, max=MOST_STEPS) for name in ("rows", "columns"))
        outputs = ("boxes", "scores", *(("labels",) if suppress else ()), *(("masks",) if body.has_masks else ()))
        opened: tuple[dict[int, Any], ...] = ({0: batch, 2: rows, 3: columns}, {0: batch})
        return Form(graph, ("images", "sizes"), outputs, (images, sizes), opened)
    images = structured(2, in_chans, *side)
    free = torch.export.Dim.DYNAMIC
    opened = ({0: free} if fixed_size else {0: free, 2: free, 3: free},)
    outputs = ("logits",)
    return Form(Outside(folded, dtype), ("images",), outputs, (images,), opened)


def filled(side: int) -> int:
    """The next multiple of what a detector's sides are multiples of."""
    return -(-side // MULTIPLE) * MULTIPLE


def structured(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with large and small shapes in them, normalised: (batch, channels, height, width)."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(batch, channels, height, width)
    for parts in (4, 16, 64):
        coarse = torch.randn(batch, channels, min(parts, height), min(parts, width), generator=draw)
        found += F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return found / 3**0.5


def prepared(shapes: Sequence[tuple[int, int, int]], in_chans: int, task: str) -> list[tuple[Tensor, ...]]:
    """Inputs of several batches and sizes.

    Args:
        shapes: (images, height, width) of each.
        in_chans: channels.
        task: a detector's are filled up, and come with the sizes that they had.
    """
    found = []
    for seed, (batch, height, width) in enumerate(shapes, 1):
        images = structured(batch, in_chans, height, width, seed)
        if task != "detect":
            found.append((images,))
            continue
        # of several images, each is a little smaller than the one before
        sizes = [(max(1, height - 5 * i), max(1, width - 3 * i)) for i in range(batch)]
        whole = torch.zeros(batch, in_chans, filled(height), filled(width))
        for image, (rows, columns), into in zip(images, sizes, whole, strict=True):
            into[:, :rows, :columns] = image[:, :rows, :columns]
        found.append((whole, torch.tensor(sizes, dtype=torch.float32)))
    return found


class Prepared(nn.Module):
    """In the place of a detector's transform: gives a batch that is prepared already, and leaves results as they are.

    Args:
        images: (B, C, H, W).
        sizes: (B, 2).
    """

    def __init__(self, images: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.batch = ImageList(images, [(int(h), int(w)) for h, w in sizes.tolist()])

    def forward(self, images: Any, targets: Any = None) -> tuple[ImageList, Any]:
        """The batch."""
        return self.batch, targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """As it is."""
        return result


@torch.no_grad()
def answers(model: nn.Module, task: str, inputs: tuple[Tensor, ...]) -> Any:
    """What the model itself says, as it was trained: logits, or torchvision's list of detections in prepared pixels."""
    if task != "detect":
        return model(inputs[0])
    # the same weights, another transform
    alike: Any = copy.copy(model)
    alike._modules = {**model._modules, "transform": Prepared(*inputs)}
    return alike([*inputs[0]])
