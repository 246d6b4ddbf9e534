"""Calls of window attention: odd ones for tests, and those of the networks for benchmarks.

Shapes: B batch · H, W map · N heads · D channels a head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from acmix.ops import cases
from acmix.ops.cases import SWIN_WINDOW, swin_calls


@dataclass(frozen=True)
class Case(cases.Case):
    """One call of `acmix.ops.window_attention`.

    Args:
        heads: N.
        head_dim: D.
        table: whether there is a relative position bias.
    """

    map_size: tuple[int, int, int] = (2, 8, 8)
    heads: int = 2
    head_dim: int = 4
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (0, 0)
    scale: float | None = None
    table: bool = True

    operator: ClassVar[str] = "window_attention"
    parameters: ClassVar[tuple[str, ...]] = ("bias_table",)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no tensors, by name."""
        return dict(window=self.window, shift=self.shift, scale=self.scale)

    def numbers(self, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors by name, the data first, of about unit size."""
        entries = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        made = {
            "qkv": torch.randn(*self.map_size, 3, self.heads, self.head_dim, generator=draw),
            "bias_table": torch.randn(entries, self.heads, generator=draw),
        }
        if not self.table:
            del made["bias_table"]
        return made


CASES = (
    Case("as Swin has it"),
    Case("shifted", shift=(2, 2)),
    Case("shifted on a rectangle", map_size=(1, 8, 12), shift=(2, 2)),
    Case("shifted along one side", shift=(0, 2)),
    Case("negative shift", shift=(-1, 2)),
    Case("shift as large as the window", shift=(4, 4)),
    Case("map of one window", map_size=(2, 4, 4)),
    Case("map of one window, shifted", map_size=(2, 4, 4), shift=(2, 2)),
    Case("one side of one window", map_size=(1, 4, 8), shift=(0, 2)),
    Case("smaller than the window", map_size=(1, 3, 2)),
    Case("smaller than the window, shifted", map_size=(1, 3, 3), shift=(2, 2)),
    Case("smaller than the shift", map_size=(1, 2, 2), window=(7, 7), shift=(3, 3)),
    Case("one pixel", map_size=(1, 1, 1), shift=(2, 2)),
    Case("one pixel a window", map_size=(1, 3, 4), window=(1, 1)),
    Case("no multiple of the window", map_size=(1, 7, 9)),
    Case("no multiple of the window, shifted", map_size=(1, 7, 9), shift=(2, 2)),
    Case("one more than the window, shifted", map_size=(1, 5, 5), shift=(2, 2)),
    Case("one less than two windows, shifted", map_size=(1, 7, 7), shift=(2, 1)),
    Case("rectangular window", map_size=(1, 6, 9), window=(2, 3), shift=(1, 1)),
    Case("rectangular window, padded", map_size=(1, 5, 7), window=(3, 5), shift=(1, 2)),
    Case("window of 7, shifted by 3", map_size=(1, 8, 7), window=(7, 7), shift=(3, 3), head_dim=3),
    Case("one head", heads=1, shift=(2, 2)),
    Case("24 heads", map_size=(1, 4, 6), heads=24, head_dim=2, shift=(2, 2)),
    Case("odd channels", map_size=(1, 4, 8), heads=3, head_dim=5),
    Case("one channel a head", map_size=(1, 4, 8), head_dim=1),
    Case("33 channels a head", map_size=(1, 4, 4), heads=1, head_dim=33),
    Case("no bias", table=False),
    Case("no bias, shifted and padded", map_size=(1, 6, 7), table=False, shift=(2, 2)),
    Case("scale of its own", scale=0.25, shift=(1, 1)),
    Case("no image", map_size=(0, 8, 8), shift=(2, 2)),
    Case("no image, no bias, padded", map_size=(0, 7, 6), table=False),
    Case("channels first in memory", layout="planes", shift=(2, 2)),
    Case("part of something larger", layout="slice", shift=(2, 2)),
    Case("part of something larger, padded", map_size=(1, 6, 7), layout="slice", shift=(2, 2)),
    Case("one image for the whole batch", layout="expanded", shift=(2, 2)),
    Case("70 pixels, no bias", map_size=(1, 10, 7), window=(10, 7), head_dim=8, table=False, layout="slice"),
    Case("81 pixels, shifted and padded", map_size=(1, 11, 17), window=(9, 9), shift=(4, 3), head_dim=8),
    Case("260 channels a head", map_size=(1, 5, 6), window=(5, 6), shift=(2, 2), heads=1, head_dim=260),
    Case("shifted by many windows", map_size=(1, 14, 12), window=(2, 2), shift=(9, 7), heads=1, head_dim=2),
    Case("window of 1,089 pixels", map_size=(1, 2, 3), window=(33, 33), heads=1, head_dim=2),
)

# what a kernel has to compute right on its first use; a few lanes of every width
PROOF = (
    Case("rolled", map_size=(1, 13, 14), heads=2, head_dim=32, window=(7, 7), shift=(3, 3), scale=0.25),
    Case("a large window", map_size=(1, 11, 12), heads=1, head_dim=32, window=(12, 12), scale=0.25),
    Case("no bias", map_size=(1, 8, 8), heads=2, head_dim=16, table=False, scale=0.25),
)

NETWORKS = tuple(
    Case(
        name,
        map_size=(1, side, side),
        heads=heads,
        head_dim=channels // heads,
        window=(SWIN_WINDOW, SWIN_WINDOW),
        shift=(shift, shift),
    )
    for name, side, channels, heads, shift in swin_calls()
)
