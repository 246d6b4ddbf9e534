"""ACmix on sequences: ACmix2d's equations along one axis, at the cost of K positions and k taps, not K² and k².

Shapes: B batch · L length · D channels a head · C output channels · I input channels
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from acmix.layers.acmix2d import ACmixLayer, is_product
from acmix.layers.maps import evenly_spaced
from acmix.layers.plain import is_plain
from acmix.ops.leaving import compact, fresh, leaves_pytorch


class ACmix1d(ACmixLayer):
    """Puts local attention and a convolution of the same q, k and v in the place of an `nn.Conv1d`.

        out_i = α · softmax_j(D^-½·q_i·(k_j − p_j))·v_j + β · conv path(q, k, v)_i        p = position(x)

    x runs from −1 to 1 along the sequence. Both rates start at 0.5. All sequences of at least one position work:
    (B, in_channels, L) -> (B, C, ceil(L/stride)).

    Args:
        in_channels: channels of the input.
        out_channels: C, channels of the output.
        heads: N, a divisor of C; "auto" takes the largest of 8, 7, … 1 that leaves 8 channels a head, if any does.
        attention_size: K, odd; positions in a position's neighbourhood.
        conv_size: k, odd; taps of the convolution.
        stride: positions between two outputs.
        dilation: positions between two neighbours, and between two taps.
        mixing: of the two paths.

    Raises:
        ValueError: a number that cannot work, with those that can.

    Source: ACmix, section 4; one axis is our reading, the authors have two.
    """

    sides = "L"
    projection = nn.Conv1d

    def project_input(self, x: Tensor) -> Tensor:
        weight, bias = self.weight_and_bias()
        if leaves_pytorch():
            # a convolution of one dimension asks whether there is one position
            return F.linear(fresh(x.transpose(1, 2)), weight.flatten(1), bias)
        return F.conv1d(x, weight, bias).transpose(1, 2).contiguous()  # (B, L, 3·C)

    def gmacs(self, length: int) -> float:
        """10⁹ multiply-adds for one sequence: what torch's FlopCounterMode counts, halved."""
        return self.gmacs_of(length)

    def positions(self, qkv: Tensor) -> Tensor:
        plain = is_plain(self.position, nn.Conv1d) and is_product(self.position, 1)
        like = self.position.weight if plain else qkv
        line = evenly_spaced(qkv.shape[2], like)  # (L,)
        if plain:
            return F.linear(line[None, :, None], like.flatten(1), self.position.bias)  # (1, L, D)
        return compact(self.position(line[None, None]).transpose(1, 2))
