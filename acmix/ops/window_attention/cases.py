"""Calls of window attention: odd ones for tests.

Shapes: B batch · H, W map · N heads · D channels a head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acmix.ops.cases import finish
from acmix.ops.window_attention import window_attention


@dataclass(frozen=True)
class Case:
    """One call of `acmix.ops.window_attention`.

    Args:
        name: what is special about it.
        size: (B, H, W).
        heads: N.
        head_dim: D.
        table: whether there is a relative position bias.
        layout: how q, k and v lie in memory; see `acmix.ops.cases.laid_out`.
    """

    name: str
    size: tuple[int, int, int] = (2, 8, 8)
    heads: int = 2
    head_dim: int = 4
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (0, 0)
    scale: float | None = None
    table: bool = True
    layout: str = "contiguous"

    @property
    def settings(self) -> dict[str, Any]:
        """What is no tensor."""
        return dict(window=self.window, shift=self.shift, scale=self.scale)

    def tensors(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
        """The arguments by name, of about unit size, that ask for gradients; the same numbers in every dtype."""
        draw = torch.Generator().manual_seed(seed)
        entries = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        made = {
            "qkv": torch.randn(*self.size, 3, self.heads, self.head_dim, generator=draw),
            "bias_table": torch.randn(entries, self.heads, generator=draw),
        }
        if not self.table:
            del made["bias_table"]
        return finish(made, "qkv", self.layout, dtype, device)

    def call(self, tensors: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        return window_attention(**tensors, **self.settings)


CASES = (
    Case("as Swin has it"),
    Case("shifted", shift=(2, 2)),
    Case("shifted on a rectangle", size=(1, 8, 12), shift=(2, 2)),
    Case("shifted along one side", shift=(0, 2)),
    Case("negative shift", shift=(-1, 2)),
    Case("shift as large as the window", shift=(4, 4)),
    Case("map of one window", size=(2, 4, 4)),
    Case("map of one window, shifted", size=(2, 4, 4), shift=(2, 2)),
    Case("one side of one window", size=(1, 4, 8), shift=(0, 2)),
    Case("smaller than the window", size=(1, 3, 2)),
    Case("smaller than the window, shifted", size=(1, 3, 3), shift=(2, 2)),
    Case("smaller than the shift", size=(1, 2, 2), window=(7, 7), shift=(3, 3)),
    Case("one pixel", size=(1, 1, 1), shift=(2, 2)),
    Case("one pixel a window", size=(1, 3, 4), window=(1, 1)),
    Case("no multiple of the window", size=(1, 7, 9)),
    Case("no multiple of the window, shifted", size=(1, 7, 9), shift=(2, 2)),
    Case("one more than the window, shifted", size=(1, 5, 5), shift=(2, 2)),
    Case("one less than two windows, shifted", size=(1, 7, 7), shift=(2, 1)),
    Case("rectangular window", size=(1, 6, 9), window=(2, 3), shift=(1, 1)),
    Case("rectangular window, padded", size=(1, 5, 7), window=(3, 5), shift=(1, 2)),
    Case("window of 7, shifted by 3", size=(1, 8, 7), window=(7, 7), shift=(3, 3), head_dim=3),
    Case("one head", heads=1, shift=(2, 2)),
    Case("24 heads", size=(1, 4, 6), heads=24, head_dim=2, shift=(2, 2)),
    Case("odd channels", size=(1, 4, 8), heads=3, head_dim=5),
    Case("one channel a head", size=(1, 4, 8), head_dim=1),
    Case("33 channels a head", size=(1, 4, 4), heads=1, head_dim=33),
    Case("no bias", table=False),
    Case("no bias, shifted and padded", size=(1, 6, 7), table=False, shift=(2, 2)),
    Case("scale of its own", scale=0.25, shift=(1, 1)),
    Case("no image", size=(0, 8, 8), shift=(2, 2)),
    Case("no image, no bias, padded", size=(0, 7, 6), table=False),
    Case("channels first in memory", layout="planes", shift=(2, 2)),
    Case("part of something larger", layout="slice", shift=(2, 2)),
    Case("part of something larger, padded", size=(1, 6, 7), layout="slice", shift=(2, 2)),
    Case("one image for the whole batch", layout="expanded", shift=(2, 2)),
)
