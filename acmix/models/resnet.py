"""ResNet with bottlenecks and its ACmix form: one network, one flag.

Parameter names are those of torchvision's and timm's ResNet, so their state dicts load into `conv_path=False` as they
are; the ACmix form has an `ACmix2d` in the place of every bottleneck's 3×3 convolution, `layer1.0.conv2` and so on.

Shapes: B batch · H, W map · C channels · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers import ACmix2d, Mixing
from acmix.layers.maps import channels_last
from acmix.layers.plain import activated, may_overwrite
from acmix.models.backbone import Backbone, LayerPatterns
from acmix.models.blocks import Blocks, drop_path_of
from acmix.models.registry import register_variants

# a bottleneck gives this many times its inner channels
EXPANSION = 4
# strides that the last map can have
STRIDES = (8, 16, 32)


class ResNet(Backbone):
    """Classifies images, or gives a pyramid of features, by bottlenecks of convolutions or of ACmix.

    A stage that halves the map does so in the middle layer of its first bottleneck, as torchvision's ResNet does.

    Args:
        layers: bottlenecks in each stage.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: how the map is pooled, "avg", "max", … or "".
        output_stride: 32, or 16 or 8 for larger last maps: a stage that would go beyond keeps its map's size, and its
            layers reach as far as they would by dilation.
        width: channels of the stem and inside the first stage's bottlenecks; each next stage has twice as many.
        heads: attention heads of every ACmix2d; unused without a convolution path, as is attention_size.
        attention_size: pixels on the side of a neighbourhood, odd.
        drop_rate: dropout before the classifier.
        drop_path_rate: chance to skip the last bottleneck; falls linearly to 0 at the first.
        zero_init_residual: start every bottleneck as the identity, by a last norm whose weights are 0.
        conv_path: False gives plain ResNet, whose middle layer is a 3×3 convolution.
        mixing: of the two paths, where there are two; `create_model` also takes its fields one by one. With
            path="attention" the middle layer is local attention.

    Source: He et al., Deep residual learning (CVPR 2016); ACmix (CVPR 2022), section 5.1 and table 2.
    """

    first_conv = "conv1"
    layer_patterns = LayerPatterns(stem=r"^conv1|^bn1", stages=r"^layer(\d+)", blocks=r"^layer(\d+)\.(\d+)")

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int | None = None,
        width: int = 64,
        heads: int | str = 4,
        attention_size: int = 7,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_residual: bool = False,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(in_chans, num_classes)
        mixing.check_stages(len(layers))
        if not layers or min(layers) < 1:
            raise ValueError(f"layers={tuple(layers)}; expected the bottlenecks of each stage, at least one a stage")
        if output_stride not in (None, *STRIDES):
            raise UsageError(f"output_stride={output_stride!r}; expected one of {', '.join(map(str, STRIDES))}")
        self.drop_rate = drop_rate
        self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()  # works in place unless a hook watches: see `activated`
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.add_step("act1", width, 2)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        channels, reduction, dilation = width, 4, 1
        for i, depth in enumerate(layers):
            inner = width * 2**i
            mixed = mixing.at(i) if conv_path else None
            stride, first_dilation = (2 if i > 0 else 1), dilation
            if output_stride is not None and reduction * stride > output_stride:
                # neighbours lie where they would on the smaller map, from the second layer on
                stride, dilation = 1, dilation * stride
            reduction *= stride
            blocks = []
            for j in range(depth):
                first = j == 0
                geometry = dict(stride=stride if first else 1, dilation=first_dilation if first else dilation)
                middle = middle_layer(inner, heads, attention_size, mixed, **geometry)
                blocks.append(Bottleneck(channels, inner, middle, stride=geometry["stride"], drop_path=rates[i][j]))
                channels = inner * EXPANSION
            self.add_module(f"layer{i + 1}", Blocks(*blocks))
            self.add_step(f"layer{i + 1}", channels, reduction)
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, width, ceil(h/2), ceil(w/2)), before the ReLU."""
        # channels last from here on: no layer then has to move its map in memory before it can read it
        return self.bn1(self.conv1(channels_last(x)))

    def step(self, name: str, state: Tensor) -> Tensor:
        return activated(self.act1, state, self.bn1) if name == "act1" else super().step(name, state)

    def behind(self, name: str, state: Tensor) -> Tensor:
        return self.maxpool(state) if name == "act1" else state

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        wanted = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.steps == ["act1"]:
            self.maxpool = nn.Identity()
        return wanted


class Bottleneck(nn.Module):
    """x + conv3(middle(conv1(x))), each with its norm, and ReLUs between and behind.

    Args:
        channels: of the input.
        inner: channels of the middle layer; the output has four times as many.
        middle: from (B, inner, H, W) to (B, inner, ceil(H/stride), ceil(W/stride)).
        stride: of the middle layer; the shortcut gets a 1×1 convolution where it or the channels change.
        drop_path: chance to skip.
    """

    def __init__(self, channels: int, inner: int, middle: nn.Module, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = middle
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, inner * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner * EXPANSION)
        # one each, as quantisers tell layers apart by their modules
        self.act1, self.act2, self.act3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.drop_path = drop_path_of(drop_path)
        self.downsample = None
        if stride != 1 or channels != inner * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, inner * EXPANSION, 1, stride=stride, bias=False),
                nn.BatchNorm2d(inner * EXPANSION),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4·inner, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = activated(self.act1, self.bn1(self.conv1(x)), self.bn1)  # (B, inner, H, W)
        x = activated(self.act2, self.bn2(self.conv2(x)), self.bn2)  # (B, inner, ceil(H/stride), ceil(W/stride))
        x = self.drop_path(self.bn3(self.conv3(x)))
        # in place: neither a norm's nor a drop's gradient needs what it gave
        x = x.add_(shortcut) if may_overwrite(self.bn3, self.drop_path) else x + shortcut
        return activated(self.act3, x)


def middle_layer(
    inner: int, heads: int | str, attention_size: int, mixing: Mixing | None, *, stride: int, dilation: int
) -> nn.Module:
    """What stands between a bottleneck's two 1×1 convolutions: ACmix, or the 3×3 convolution it replaces."""
    geometry = dict(stride=stride, dilation=dilation)
    if mixing is not None:
        return ACmix2d(inner, inner, heads=heads, attention_size=attention_size, mixing=mixing, **geometry)
    return nn.Conv2d(inner, inner, 3, padding=dilation, bias=False, **geometry)  # pyright: ignore[reportArgumentType]


def init_weights(module: nn.Module) -> None:
    """Draws convolutions as He et al. do (fan out, ReLU).

    The shift kernels of a convolution path are no `nn.Conv2d`, so that neither this nor a host's loop draws over them.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_resnet26": dict(layers=(1, 2, 4, 1)),
    "acmix_resnet38": dict(layers=(2, 3, 5, 2)),
    "acmix_resnet50": dict(layers=(3, 4, 6, 3)),
}

register_variants(ResNet, VARIANTS)
