"""The head of Semantic FPN: every map of a pyramid brought to the finest, and their sum.

Shapes: B batch · H, W the finest map · H_i, W_i map i · P channels of the pyramid · C of the head · K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Any

from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.heads.dense import Classifier, convolution, enlarged


class SemanticFPN(nn.Module):
    """Classifies every pixel of the finest map of a pyramid.

        x_i = up(relu(norm(conv(… up(relu(norm(conv(P_i))))))))     log2(stride_i / stride_0) times, at least one conv
        logits = conv1x1(dropout(Σ_i x_i))

    Args:
        in_channels: P.
        strides: of the maps, the finest first; powers of two times the first.
        num_classes: K.
        channels: C.
        dropout: the chance of a channel to be left out before the last convolution.

    Source: Panoptic Feature Pyramid Networks (Kirillov et al., CVPR 2019), section 3.1, with batch norm as in PVT's
        recipe.
    """

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        *,
        channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.doublings = [doublings(stride, strides[0]) for stride in strides]
        self.branches = nn.ModuleList(
            nn.ModuleList(convolution(channels if i else in_channels, channels, 3) for i in range(max(1, times)))
            for times in self.doublings
        )
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, P, H_i, W_i), the finest first -> logits (B, K, H, W)."""
        finest, branches = maps[0].shape[2:], zip(self.doublings, self.branches, maps, strict=True)
        found = []
        for times, branch, x in branches:
            convolutions: Any = branch
            for i, conv in enumerate(convolutions, 1):
                x = conv(x)
                if times:
                    # as large as the next larger map is, or would be
                    step = 2 ** (times - i)
                    x = enlarged(x, 2, ((finest[0] + step - 1) // step, (finest[1] + step - 1) // step))
            found.append(x)  # (B, C, H, W)
        return self.classifier(sum(found[1:], found[0]))


def doublings(stride: int, finest: int) -> int:
    """How often a map of a stride is doubled until it is as large as the finest."""
    times = round(log2(stride / finest))
    if finest * 2**times != stride:
        raise UsageError(
            f"semantic_fpn got maps of strides {finest} and {stride}; expected strides that double, as 4, 8, 16, 32: "
            "choose them by backbone_args={'levels': …}, or use upernet"
        )
    return times
