"""What the operators' tables of cases share: a call, its tensors and how they lie in memory, and sizes of networks.

Each folder's `cases` has `CASES`, odd calls for tests, and `NETWORKS`, those of the networks, for benchmarks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from acmix.ops import dispatch

SWIN_WINDOW = 7
# side of the map, channels and heads of each stage of Swin-T at 224 pixels
SWIN = ((56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24))
# side of the map and channels of each stage of ResNet at 224 pixels, of 4 heads
RESNET = ((56, 64), (28, 128), (14, 256), (7, 512))
RESNET_HEADS = 4


@dataclass(frozen=True)
class Case(ABC):
    """One call of an operator.

    Args:
        name: what is special about it.
        map_size: (B, H, W).
        layout: how the data lie in memory; see `laid_out`.
    """

    name: str
    map_size: tuple[int, int, int] = (2, 6, 7)
    layout: str = "contiguous"

    operator: ClassVar[str]
    # the arguments that autocast leaves in float32
    parameters: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by name."""

    @abstractmethod
    def numbers(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors by name, the data first, of about unit size."""

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        *,
        parameters: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """The tensors by name, that ask for gradients; the same numbers in every dtype.

        Args:
            dtype: of all.
            device: where they lie.
            seed: of the numbers.
            parameters: another dtype for what autocast would leave alone.
        """
        made = {}
        for name, tensor in self.numbers(torch.Generator().manual_seed(seed)).items():
            own = parameters if parameters and name in self.parameters else dtype
            moved = tensor.to(device, own)
            made[name] = (moved if made else laid_out(moved, self.layout)).requires_grad_()
        return made

    def call(self, tensors: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        return dispatch.OPERATORS[self.operator].function(**tensors, **self.settings)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, elsewhere in memory.

    contiguous: as the projection of a map with channels last gives them.
    planes: channels first, as a 1×1 convolution gives them.
    slice: a part of something larger, on all sides, with gaps between numbers.
    expanded: one image for the whole batch, with a step of 0.
    """
    if layout == "contiguous":
        return x
    if layout == "planes":
        return x.movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2))
    if layout == "slice":
        larger = x.new_full((x.shape[0], *(2 * side + 1 for side in x.shape[1:])), float("nan"))
        inner = larger[(slice(None), *(slice(1, None, 2) for _ in x.shape[1:]))]
        return inner.copy_(x)
    assert layout == "expanded", layout
    return x[:1].expand_as(x)


def swin_calls() -> Iterator[tuple[str, int, int, int, int]]:
    """Name, side, channels, heads and shift of the attentions of Swin-T, shifted and not."""
    for side, channels, heads in SWIN:
        # a map of one window is never shifted
        for shift in (0, 3) if side > SWIN_WINDOW else (0,):
            yield network_name(side, channels, heads, shift=shift), side, channels, heads, shift


def resnet_calls() -> Iterator[tuple[str, int, int, int]]:
    """Name, side, channels and stride of the layers of ACmix-ResNet, and of a larger map."""
    calls = [(side, channels, 1) for side, channels in RESNET]
    # the first bottleneck of a stage halves the map of the stage before
    calls += [(2 * side, channels, 2) for side, channels in RESNET[1:]]
    for side, channels, stride in [*calls, (80, 64, 1)]:
        yield network_name(side, channels, RESNET_HEADS, stride=stride), side, channels, stride


def network_name(side: int, channels: int, heads: int, *, stride: int = 1, shift: int = 0, size: int = 7) -> str:
    """What tables of speed call a network's layer."""
    more = [f"stride {stride}"] * (stride > 1) + [f"shift {shift}"] * (shift > 0) + [f"size {size}"] * (size != 7)
    return " ".join([f"{side}x{side}", f"C {channels}", f"N {heads}", *more])
