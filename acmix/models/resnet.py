"""ResNet with bottlenecks and its ACmix form: one network, one flag.

Parameter names are those of torchvision's and timm's ResNet, so their state dicts load into `conv_path=False` as they
are; the ACmix form has an `ACmix2d` in the place of every bottleneck's 3×3 convolution, `layer1.0.conv2` and so on.

Shapes: B batch · H, W map · C channels · h, w image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates, create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix.layers import ACmix2d, Mixing, rate_names
from acmix.models.checkpointing import checkpointed
from acmix.models.registry import register_variants

# a bottleneck gives this many times its inner channels
EXPANSION = 4


class ResNet(nn.Module):
    """Classifies images, or gives a pyramid of features, by bottlenecks of convolutions or of ACmix.

    A stage that halves the map does so in the middle layer of its first bottleneck, as torchvision's ResNet does.

    Args:
        layers: bottlenecks in each stage.
        in_chans: channels of the images.
        num_classes: classes; 0 leaves the pooled features.
        global_pool: how the map is pooled, "avg", "max", … or "".
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

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        width: int = 64,
        heads: int | str = 4,
        attention_size: int = 7,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_residual: bool = False,
        conv_path: bool = True,
        mixing: Mixing = Mixing(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        mixing.check_stages(len(layers))
        if not layers or min(layers) < 1:
            raise ValueError(f"layers={tuple(layers)}; expected the bottlenecks of each stage, at least one a stage")
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [dict(num_chs=width, reduction=2, module="act1")]
        # names of the stages, as far as they are not cut off
        self.stages = [f"layer{i + 1}" for i in range(len(layers))]
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        channels = width
        for i, depth in enumerate(layers):
            inner = width * 2**i
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                middle = middle_layer(inner, stride, heads, attention_size, mixing.at(i) if conv_path else None)
                blocks.append(Bottleneck(channels, inner, middle, stride=stride, drop_path=rates[i][j]))
                channels = inner * EXPANSION
            self.add_module(self.stages[i], nn.Sequential(*blocks))
            self.feature_info.append(dict(num_chs=channels, reduction=4 * 2**i, module=self.stages[i]))
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, C, H, W)."""
        x = self.maxpool(self.stem(x))
        for name in self.stages:
            x = self.run_stage(name, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes), or the pooled features (B, C)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def stem(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, width, ceil(h/2), ceil(w/2)), before the pooling."""
        # channels last from here on: no layer then has to move its map in memory before it can read it
        return self.act1(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last))))

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """The map behind a stage."""
        for block in self.get_submodule(name).children():
            x = checkpointed(block, x) if self.grad_checkpointing else block(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Gives the maps after the stem (0) and after chosen stages (1, 2, …), as timm's models do.

        Args:
            x: (B, in_chans, h, w).
            indices: which maps; the last n where one number n; all where None.
            norm: without meaning here, every map ends in a norm and a ReLU already.
            stop_early: leave out the stages that nobody asked for.
            output_fmt: "NCHW".
            intermediates_only: give the list alone.

        Returns:
            The maps, and unless `intermediates_only` the last one before them.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}; expected 'NCHW'")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        x = self.stem(x)
        maps = [x] if 0 in wanted else []
        x = self.maxpool(x)
        for i, name in enumerate(self.stages, start=1):
            if stop_early and i > last:
                break
            x = self.run_stage(name, x)
            if i in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cuts off the stages behind the last one wanted, and the head that goes with them."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        for name in self.stages[last:]:
            delattr(self, name)
        self.stages = self.stages[:last]
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Puts a new classifier in place; 0 classes leave the pooled features."""
        self.num_classes = num_classes
        self.global_pool, self.fc, *_ = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only each bottleneck's input for the backward pass and computes the rest again."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, though an optimizer may decay those of one dimension too."""
        return rate_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates."""
        return dict(stem=r"^conv1|^bn1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")


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
        self.act = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.downsample = None
        if stride != 1 or channels != inner * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, inner * EXPANSION, 1, stride=stride, bias=False),
                nn.BatchNorm2d(inner * EXPANSION),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4·inner, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act(self.bn1(self.conv1(x)))  # (B, inner, H, W)
        x = self.act(self.bn2(self.conv2(x)))  # (B, inner, ceil(H/stride), ceil(W/stride))
        x = self.drop_path(self.bn3(self.conv3(x)))
        return self.act(x.add_(shortcut))  # in place: neither a norm's nor a drop's gradient needs what it gave


def middle_layer(inner: int, stride: int, heads: int | str, attention_size: int, mixing: Mixing | None) -> nn.Module:
    """What stands between a bottleneck's two 1×1 convolutions: ACmix, or the 3×3 convolution it replaces."""
    if mixing is not None:
        return ACmix2d(inner, inner, heads=heads, attention_size=attention_size, stride=stride, mixing=mixing)
    return nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)


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

register_variants(ResNet, VARIANTS, first_conv="conv1", classifier="fc")
