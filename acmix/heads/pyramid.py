"""Pyramids over a backbone's maps: the feature pyramid network, and ViTDet's for a single map.

Shapes: B batch · C channels of a map · P channels of the pyramid · H, W map
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from acmix.errors import UsageError
from acmix.heads.dense import MapNorm

Extra = Literal["pool", "c5", "p5"]
EXTRAS = ("pool", "c5", "p5")
# of ViTDet's pyramid over a map of stride 16
SIMPLE_STRIDES = (4, 8, 16, 32)


class Pyramid(nn.Module):
    """The feature pyramid network: every map gets P channels and what the smaller maps know.

        t_i = W_i C_i + up(t_{i+1});    P_i = V_i ⋆ t_i            W 1×1, V 3×3, up by the nearest pixel

    Args:
        channels: C of each map, the largest map first.
        strides: of each map in the image.
        out_channels: P.
        extra: smaller maps behind the last: "pool" for every second pixel of it (R-CNN), "c5" for two convolutions of
            stride 2 on the last map that comes in, "p5" for two on the last of the pyramid (RetinaNet, FCOS); None
            for none.
        out_norms: put a LayerNorm over the channels of each map that comes in, as the Swin recipes do.

    Attributes:
        out_channels: P.
        strides: of each map that is given.

    Source: Lin et al., Feature pyramid networks (CVPR 2017).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        out_channels: int = 256,
        extra: Extra | None = None,
        out_norms: bool = False,
    ) -> None:
        super().__init__()
        check_extra(extra)
        self.out_channels = out_channels
        self.strides = [*strides, *extra_strides(strides[-1], extra)]
        self.norms = nn.ModuleList(MapNorm(each) if out_norms else nn.Identity() for each in channels)
        self.network = FeaturePyramidNetwork([*channels], out_channels)
        self.extra = ExtraMaps(channels[-1], out_channels, extra)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, H, W) -> maps (B, P, H, W), the largest first, the extra ones last."""
        maps = [norm(each) for norm, each in zip(self.norms, maps, strict=True)]
        found = self.network(OrderedDict((str(i), each) for i, each in enumerate(maps)))
        return self.extra(maps[-1], [*found.values()])


class SimplePyramid(nn.Module):
    """ViTDet's pyramid over one map of stride 16: strides 4, 8, 16 and 32, each made from that map alone.

    Two deconvolutions, one, none and a maximum of 2×2; then a 1×1 convolution, a norm, a 3×3 convolution and a norm.

    Args:
        channels: C, a multiple of 4.
        out_channels: P.
        strides: those to give, of 4, 8, 16 and 32.
        extra: as for `Pyramid`; "c5" stands on the map that comes in, and is refused: use "p5".

    Attributes:
        out_channels: P.
        strides: of each map that is given.

    Source: Li et al., Exploring plain vision transformer backbones for object detection (ECCV 2022).
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int = 256,
        strides: Sequence[int] = SIMPLE_STRIDES,
        extra: Extra | None = None,
    ) -> None:
        super().__init__()
        check_extra(extra)
        if extra == "c5":
            raise UsageError("extra='c5': a plain network has no map of stride 32; use 'p5'")
        if channels % 4:
            raise UsageError(
                f"a backbone of {channels} channels; ViTDet's pyramid halves them twice: use a multiple of 4"
            )
        self.out_channels = out_channels
        self.strides = [*strides, *extra_strides(strides[-1], extra)]
        self.levels = nn.ModuleList(level(channels, out_channels, stride) for stride in strides)
        self.extra = ExtraMaps(out_channels, out_channels, extra)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, C, H, W) in a list -> maps (B, P, …), the largest first; sides are rounded up."""
        (x,) = maps
        return self.extra(x, [level(x) for level in self.levels])


class ExtraMaps(nn.Module):
    """The smaller maps behind a pyramid's last; see `Pyramid`.

    Args:
        channels: of the backbone's last map.
        out_channels: P.
        extra: "pool", "c5", "p5" or None.
    """

    def __init__(self, channels: int, out_channels: int, extra: Extra | None) -> None:
        super().__init__()
        self.extra = extra
        if extra in ("c5", "p5"):
            self.maps = LastLevelP6P7(channels if extra == "c5" else out_channels, out_channels)
            # it guesses by the channels, which may be alike
            self.maps.use_P5 = extra == "p5"

    def forward(self, last: Tensor, found: list[Tensor]) -> list[Tensor]:
        """The backbone's last map (B, C, H, W) and the pyramid's maps -> the pyramid's with the extra ones."""
        if self.extra == "pool":
            return [*found, F.max_pool2d(found[-1], 1, stride=2)]
        return found if self.extra is None else self.maps([*found], [last], [])[0]


def level(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """What gives one map of ViTDet's pyramid from the one of stride 16."""
    half, quarter = channels // 2, channels // 4
    first: dict[int, tuple[int, list[nn.Module]]] = {
        4: (
            quarter,
            [
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                MapNorm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ],
        ),
        8: (half, [nn.ConvTranspose2d(channels, half, 2, stride=2)]),
        16: (channels, []),
        # a single row or column has a maximum too
        32: (channels, [nn.MaxPool2d(2, ceil_mode=True)]),
    }
    width, layers = first[stride]
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, out_channels, 1, bias=False),
        MapNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        MapNorm(out_channels),
    )


def extra_strides(last: int, extra: Extra | None) -> list[int]:
    """The strides of the extra maps behind one of stride `last`."""
    return [last * 2 ** (i + 1) for i in range({None: 0, "pool": 1}.get(extra, 2))]


def check_extra(extra: str | None) -> None:
    """Refuses extra maps that there are not."""
    if extra not in (None, *EXTRAS):
        raise UsageError(f"extra={extra!r}; expected one of {', '.join(map(repr, EXTRAS))} or None")
