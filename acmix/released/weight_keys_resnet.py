"""The released names of the weights of an ACmix layer and of the ResNets made of them, beside ours.

To support one more key, add its row to the table it belongs to.
"""

# C output channels of a layer, I input channels, N heads, D channels a head, k side of the convolution, T = k*k taps,
# B channels that enter a bottleneck, M = 4*C that leave it, E channels of the stem, F of the last stage, K classes.

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acmix.errors import UsageError
from acmix.models.resnet import EXPANSION, VARIANTS
from acmix.released.weight_table import Pair, Row, check_name, fill, same, size_of

NAMED = "named for what it gives"
RATE = "named for what it weighs"
PATH = "belongs to the convolution path"
BIAS = "the released code assigns None to it; a file may hold zeros in its place"

# names inside one module
LAYER = (
    Row("rate1", "rate_attention", "1", reason=RATE),
    Row("rate2", "rate_conv", "1", reason=RATE),
    Row("conv1.weight", "query.weight", "C I 1 1", reason=NAMED),
    Row("conv1.bias", "query.bias", "C", reason=NAMED),
    Row("conv2.weight", "key.weight", "C I 1 1", reason=NAMED),
    Row("conv2.bias", "key.bias", "C", reason=NAMED),
    Row("conv3.weight", "value.weight", "C I 1 1", reason=NAMED),
    Row("conv3.bias", "value.bias", "C", reason=NAMED),
    Row("conv_p.weight", "position.weight", "D 2 1 1", reason=NAMED),
    Row("conv_p.bias", "position.bias", "D", reason=NAMED),
    Row("fc.weight", "conv_path.fc_weight", "T 3N 1 1", "T 3N", "a matrix, not a convolution"),
    Row("dep_conv.weight", "conv_path.kernels", "C T k k", reason=PATH),
    Row("dep_conv.bias", None, "C", reason=BIAS),
)


def norm(name: str, channels: str) -> tuple[Row, ...]:
    """The rows of a batch norm."""
    vectors = (same(f"{name}.{key}", channels) for key in ("weight", "bias", "running_mean", "running_var"))
    return (*vectors, same(f"{name}.num_batches_tracked", ""))


RESNET_START = (same("conv1.weight", "E I 7 7"), *norm("bn1", "E"))
# names after `layer{stage}.{block}.`, around those of the middle layer
BEFORE = (same("conv1.weight", "C B 1 1"), *norm("bn1", "C"))
PLAIN = (same("conv2.weight", "C C 3 3"),)
BEHIND = (*norm("bn2", "C"), same("conv3.weight", "M C 1 1"), *norm("bn3", "M"))
SHORTCUT = (same("downsample.0.weight", "M B 1 1"), *norm("downsample.1", "M"))
RESNET_END = (same("fc.weight", "K F"), same("fc.bias", "K"))


@dataclass(frozen=True)
class LayerLayout:
    """The sizes of one module, read off its weights, and the table's rows written out for them."""

    in_channels: int
    out_channels: int
    heads: int
    conv_size: int

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], prefix: str = "") -> LayerLayout:
        """Reads the sizes of the module whose names begin so; what the file lacks is as usual, so that it is listed."""

        def size(official: str, ours: str, dim: int, otherwise: int) -> int:
            return size_of(weights, (prefix + official, prefix + ours), dim, otherwise)

        out_channels = size("conv1.weight", "query.weight", 0, size("dep_conv.weight", "conv_path.kernels", 0, 64))
        return cls(
            in_channels=size("conv1.weight", "query.weight", 1, out_channels),
            out_channels=out_channels,
            heads=max(size("fc.weight", "conv_path.fc_weight", 1, 12) // 3, 1),
            conv_size=math.isqrt(size("fc.weight", "conv_path.fc_weight", 0, 9)),
        )

    def settings(self) -> dict[str, Any]:
        """What the weights tell of `ACmix2d`'s arguments: not the size of its neighbourhood, nor stride or dilation."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "heads": self.heads,
            "conv_size": self.conv_size,
        }

    def pairs(self, prefix: str = "") -> Iterator[Pair]:
        """Every tensor under both names, in the released order."""
        numbers = {"C": self.out_channels, "I": self.in_channels, "D": self.out_channels // self.heads}
        numbers |= {"3N": 3 * self.heads, "k": self.conv_size, "T": self.conv_size**2}
        yield from fill(LAYER, numbers, prefix)

    def tables(self, img_size: int | tuple[int, int] | None) -> dict[str, Tensor]:
        """Nothing: the module saves its weights alone."""
        return {}


@dataclass(frozen=True)
class ResNetLayout:
    """The sizes of one ResNet, read off its weights, and the table's rows written out for them."""

    width: int
    layers: tuple[int, ...]
    in_chans: int
    num_classes: int
    # heads of each bottleneck in turn; empty: without convolution paths
    heads: tuple[int, ...]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], name: str = "acmix_resnet50") -> ResNetLayout:
        """Reads the sizes; a stage that the file lacks is as `name` has it, so that the missing keys can be listed."""
        blocks = {(int(m[1]), int(m[2])) for key in weights if (m := re.match(r"layer([1-9])\.(\d+)\.", key))}
        named = VARIANTS[name]["layers"]
        stages = range(1, max(len(named), *(stage for stage, _ in blocks), 0) + 1)
        depths = [max((block + 1 for at, block in blocks if at == stage), default=0) for stage in stages]
        layers = tuple(depth or named[min(i, len(named) - 1)] for i, depth in enumerate(depths))
        plain = any(re.fullmatch(r"layer\d\.\d+\.conv2\.weight", key) for key in weights)
        prefixes = [f"layer{i + 1}.{j}.conv2." for i, depth in enumerate(layers) for j in range(depth)]
        return cls(
            width=size_of(weights, ("conv1.weight", "bn1.weight"), 0, 64),
            layers=layers,
            in_chans=size_of(weights, ("conv1.weight",), 1, 3),
            num_classes=size_of(weights, ("fc.weight", "fc.bias"), 0, 1000),
            heads=() if plain else tuple(LayerLayout.of(weights, prefix).heads for prefix in prefixes),
        )

    def settings(self) -> dict[str, Any]:
        """The sizes under the names of the constructor's arguments."""
        return {
            "layers": self.layers,
            "width": self.width,
            # unused without convolution paths
            "heads": 4 if not self.heads else self.heads[0] if len(set(self.heads)) == 1 else "auto",
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
            "conv_path": bool(self.heads),
        }

    def pairs(self) -> Iterator[Pair]:
        """Every tensor under both names, in the released order."""
        numbers = {"E": self.width, "I": self.in_chans, "K": self.num_classes}
        yield from fill(RESNET_START, numbers)
        heads = iter(self.heads)
        channels = self.width
        for i, depth in enumerate(self.layers):
            inner = self.width * 2**i
            for j in range(depth):
                prefix = f"layer{i + 1}.{j}."
                numbers |= {"B": channels, "C": inner, "M": inner * EXPANSION}
                yield from fill(BEFORE, numbers, prefix)
                if self.heads:
                    yield from LayerLayout(inner, inner, next(heads), 3).pairs(f"{prefix}conv2.")
                else:
                    yield from fill(PLAIN, numbers, prefix)
                yield from fill(BEHIND, numbers, prefix)
                if j == 0:
                    yield from fill(SHORTCUT, numbers, prefix)
                channels = inner * EXPANSION
        yield from fill(RESNET_END, numbers | {"F": channels})

    def tables(self, img_size: int | tuple[int, int] | None) -> dict[str, Tensor]:
        """Nothing: the network saves its weights alone."""
        return {}


def read_layer(weights: Mapping[str, Tensor], name: str) -> LayerLayout:
    """Reads the sizes of a lone module's weights."""
    check_biases(weights)
    return LayerLayout.of(weights)


def read_resnet(weights: Mapping[str, Tensor], name: str) -> ResNetLayout:
    """Reads the sizes of weights that are said to be `name`'s, and refuses those of another variant."""
    check_resnet(name)
    check_biases(weights)
    layout = ResNetLayout.of(weights, name)
    other = variant_of(layout.layers)
    if other not in (None, name):
        own = VARIANTS[name]["layers"]
        raise UsageError(
            f"the weights are not {name}'s: {layout.layers} bottlenecks, where {own} were expected; "
            f"give the name {other}"
        )
    return layout


def check_resnet(name: str) -> None:
    """Refuses a name that no ResNet has."""
    check_name(name, VARIANTS)


def variant_of(layers: tuple[int, ...]) -> str | None:
    """The name of the ResNet with that many bottlenecks in its stages."""
    return next((name for name, arguments in VARIANTS.items() if arguments["layers"] == layers), None)


def check_biases(weights: Mapping[str, Tensor]) -> None:
    """Refuses a bias of the grouped convolution, unless it adds nothing."""
    for key, tensor in weights.items():
        if re.search(r"(^|\.)dep_conv\.bias$", key) and tensor.count_nonzero():
            raise UsageError(
                f"{key} is not zero (largest {tensor.abs().max().item():.3g}); the released layout has no bias "
                "there: set it to zeros and continue training"
            )
