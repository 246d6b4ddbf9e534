"""Self-Attention Network (SAN) and its ACmix form: one network, one flag; patchwise or pairwise.

Parameter names are ours. A convolution path adds `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each
block.

Shapes: B batch · H, W map · C channels · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import Mixing, PairwiseAttention, PatchwiseAttention
from acmix.layers.maps import channels_last
from acmix.layers.plain import activated, may_overwrite
from acmix.models.backbone import Backbone, LayerPatterns
from acmix.models.blocks import Blocks, drop_path_of, missing
from acmix.models.registry import register_variants
from acmix.ops.leaving import leaves_pytorch

ATTENTIONS = {"patchwise": PatchwiseAttention, "pairwise": PairwiseAttention}


class SelfAttentionNetwork(Backbone):
    """Classifies images, or gives a pyramid of features, by attention whose weights are vectors.

    Every stage halves its map first, by a 2×2 maximum; an odd side counts as one pixel more. Layers are drawn as
    PyTorch draws them.

    Args:
        layers: blocks in each stage.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: how the map is pooled, "avg", "max", … or "".
        width: channels of the first stage, a multiple of 32; the second has 4 times as many, each next one twice.
        attention: "patchwise" or "pairwise".
        sizes: pixels on the side of a neighbourhood in each stage, odd.
        drop_rate: dropout before the classifier.
        drop_path_rate: chance to skip the last block; falls linearly to 0 at the first.
        zero_init_residual: start every block as the identity. Weights are multiplied by values, so where the norms'
            running statistics lag behind, errors are squared from block to block; this spares a short training that.
        conv_path: False gives plain SAN.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one.

    Source: Zhao et al., Exploring self-attention for image recognition (CVPR 2020); ACmix (CVPR 2022), table 2, whose
        form was never released: see `VectorAttention`.
    """

    first_conv = "stem.0"
    layer_patterns = LayerPatterns(
        stem=r"^stem",
        stages=r"^stages\.(\d+)",
        blocks=[
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.linear", (0,)),
            (r"^stages\.(\d+)\.norm", (99999,)),
        ],
    )

    def __init__(
        self,
        layers: Sequence[int] = (2, 1, 2, 4, 1),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        width: int = 64,
        attention: str = "patchwise",
        sizes: Sequence[int] = (3, 7, 7, 7, 7),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_residual: bool = False,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(in_chans, num_classes)
        if attention not in ATTENTIONS:
            raise UsageError(f"attention={attention!r}; expected one of {', '.join(map(repr, ATTENTIONS))}")
        if not layers or min(layers) < 1 or len(layers) > len(sizes):
            raise UsageError(
                f"layers={tuple(layers)}; expected the blocks of each stage, for at most {len(sizes)} stages"
            )
        mixing.check_stages(len(layers))
        self.drop_rate = drop_rate
        self.stem = Stem(nn.Conv2d(in_chans, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        stages = []
        before = channels = width
        for i, depth in enumerate(layers):
            channels = width if i == 0 else 2 ** (i + 1) * width
            blocks = []
            for j in range(depth):
                mixed = mixing.at(i) if conv_path else None
                blocks.append(Block(channels, ATTENTIONS[attention](channels, sizes[i], mixing=mixed), rates[i][j]))
            stages.append(Stage(before, channels, blocks))
            before = channels
            self.add_step(f"stages.{i}", channels, 2 ** (i + 1))
        self.stages = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.zeros_(module.expand.weight)

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, width, h, w)."""
        # channels last from here on: norms, products and attention all read adjacent channels
        return self.stem(channels_last(x))

    def all_steps(self, state: Tensor) -> Tensor:
        return self.stages(state)


class Stem(nn.Sequential):
    """A convolution, a norm and a ReLU, which works in place unless a hook watches the norm."""

    def forward(self, input: Tensor) -> Tensor:
        conv, norm, act = self
        return activated(act, norm(conv(input)), norm)


class Stage(nn.Module):
    """A 2×2 maximum, a 1×1 convolution, blocks, a norm and a ReLU.

    Args:
        before: channels that come in.
        channels: C, that go out.
        blocks: on maps of C channels.
    """

    def __init__(self, before: int, channels: int, blocks: list[Block]) -> None:
        super().__init__()
        self.linear = nn.Conv2d(before, channels, 1, bias=False)
        self.blocks = Blocks(*blocks)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        x = self.blocks(self.linear(halved(x)))
        return F.relu(self.norm(x), inplace=may_overwrite(self.norm))


def halved(x: Tensor) -> Tensor:
    """The 2×2 maxima of a map: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
    if not leaves_pytorch():
        return F.max_pool2d(x, 2, ceil_mode=True)
    # AOTInductor of PyTorch 2.15 rounds an open size down where the example's was even, and loses the last row
    x = F.pad(x, (0, missing(x.shape[3], 2), 0, missing(x.shape[2], 2)), value=float("-inf"))
    return F.max_pool2d(x, 2)


class Block(nn.Module):
    """x + expand(act(attention(act(x)))), where act is a norm and a ReLU.

    Args:
        channels: C.
        attention: from (B, C, H, W) to (B, C/4, H, W).
        drop_path: chance to skip.
    """

    def __init__(self, channels: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = attention
        self.norm2 = nn.BatchNorm2d(channels // 4)
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.drop_path = drop_path_of(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        inner = self.attn(F.relu(self.norm1(x), inplace=may_overwrite(self.norm1)))  # (B, C/4, H, W)
        inner = F.relu(self.norm2(inner), inplace=may_overwrite(self.norm2))
        return x + self.drop_path(self.expand(inner))


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_san10": dict(layers=(2, 1, 2, 4, 1)),
    "acmix_san15": dict(layers=(3, 2, 3, 5, 2)),
    "acmix_san19": dict(layers=(3, 3, 4, 6, 3)),
}

register_variants(SelfAttentionNetwork, VARIANTS)
