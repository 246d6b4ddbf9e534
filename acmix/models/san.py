"""Self-Attention Network (SAN) and its ACmix form: one network, one flag; patchwise or pairwise.

Parameter names are ours. A convolution path adds `attn.rate_attention`, `attn.rate_conv` and `attn.conv_path.*` to each
block.

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

from acmix.errors import UsageError
from acmix.layers import Mixing, PairwiseAttention, PatchwiseAttention, rate_names
from acmix.models.checkpointing import checkpointed
from acmix.models.registry import register_variants

ATTENTIONS = {"patchwise": PatchwiseAttention, "pairwise": PairwiseAttention}


class SelfAttentionNetwork(nn.Module):
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
        super().__init__()
        if attention not in ATTENTIONS:
            raise UsageError(f"attention={attention!r}; expected one of {', '.join(map(repr, ATTENTIONS))}")
        if not layers or min(layers) < 1 or len(layers) > len(sizes):
            raise UsageError(
                f"layers={tuple(layers)}; expected the blocks of each stage, for at most {len(sizes)} stages"
            )
        mixing.check_stages(len(layers))
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        stages, self.feature_info = [], []
        before = channels = width
        for i, depth in enumerate(layers):
            channels = width if i == 0 else 2 ** (i + 1) * width
            blocks = []
            for j in range(depth):
                mixed = mixing.at(i) if conv_path else None
                blocks.append(Block(channels, ATTENTIONS[attention](channels, sizes[i], mixing=mixed), rates[i][j]))
            stages.append(Stage(before, channels, blocks))
            before = channels
            self.feature_info.append(dict(num_chs=channels, reduction=2 ** (i + 1), module=f"stages.{i}"))
        self.stages = nn.ModuleList(stages)
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.zeros_(module.expand.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, C, H, W)."""
        x = self.start(x)
        for stage in self.stages:
            x = self.run_stage(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes), or the pooled features (B, C)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def start(self, x: Tensor) -> Tensor:
        """(B, in_chans, h, w) -> (B, width, h, w)."""
        # channels last from here on: norms, products and attention all read adjacent channels
        return self.stem(x.contiguous(memory_format=torch.channels_last))

    def run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """The map behind a stage."""
        assert isinstance(stage, Stage)
        x = stage.enter(x)
        for block in stage.blocks:
            x = checkpointed(block, x) if self.grad_checkpointing else block(x)
        return stage.leave(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Gives the maps after chosen stages, as timm's models do.

        Args:
            x: (B, in_chans, h, w).
            indices: which stages; the last n where one number n; all where None.
            norm: without meaning here, every map ends in a norm and a ReLU already.
            stop_early: leave out the stages that nobody asked for.
            output_fmt: "NCHW".
            intermediates_only: give the list alone.

        Returns:
            The maps, and unless `intermediates_only` the last one before them.
        """
        if output_fmt != "NCHW":
            raise UsageError(f"output_fmt={output_fmt!r}; expected 'NCHW'")
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self.start(x)
        for i, stage in enumerate(self.stages):
            if stop_early and i > last:
                break
            x = self.run_stage(stage, x)
            if i in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cuts off the stages behind the last one wanted, and the head that goes with them."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        del self.stages[last + 1 :]
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
        """Keeps only each block's input for the backward pass and computes the rest again."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, though an optimizer may decay those of one dimension too."""
        return rate_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm which parameters form a layer, for layer-wise learning rates."""
        layers = [
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.linear", (0,)),
            (r"^stages\.(\d+)\.norm", (99999,)),
        ]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else layers)


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
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(channels)

    def enter(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, C, ceil(H/2), ceil(W/2)), ahead of the blocks."""
        return self.linear(F.max_pool2d(x, 2, ceil_mode=True))

    def leave(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, behind the blocks."""
        return F.relu(self.norm(x), inplace=True)


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
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        inner = self.attn(F.relu(self.norm1(x), inplace=True))  # (B, C/4, H, W)
        return x + self.drop_path(self.expand(F.relu(self.norm2(inner), inplace=True)))


VARIANTS: dict[str, dict[str, Any]] = {
    "acmix_san10": dict(layers=(2, 1, 2, 4, 1)),
    "acmix_san15": dict(layers=(3, 2, 3, 5, 2)),
    "acmix_san19": dict(layers=(3, 3, 4, 6, 3)),
}

register_variants(SelfAttentionNetwork, VARIANTS, first_conv="stem.0", classifier="fc")
