"""ACmix on sequences: ACmix2d's equations along one axis, at the cost of K positions and k taps, not K² and k².

Shapes: B batch · L length · Lo of the output · N heads · D channels a head · C = N·D output channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ops
from acmix.errors import UsageError
from acmix.layers.acmix2d import check_numbers, choose_heads, evenly_spaced
from acmix.layers.mixing import Mixed, Mixing


class ACmix1d(Mixed):
    """Puts local attention and a convolution of the same q, k and v in the place of an `nn.Conv1d`.

        out_i = α · softmax_j(D^-½·q_i·(k_j − p_j))·v_j + β · conv path(q, k, v)_i        p = position(x)

    x runs from −1 to 1 along the sequence. Both rates start at 0.5. All sequences of at least one position work.

    Args:
        in_channels: channels of the input.
        out_channels: C, channels of the output.
        heads: N, a divisor of C; "auto" takes the largest of 8, 7, … 1 that leaves 8 channels a head, if any does.
        attention_size: K, odd; positions in a position's neighbourhood.
        conv_size: k, odd; taps of the convolution.
        stride: positions between two outputs.
        dilation: positions between two neighbours, and between two taps.

    Raises:
        ValueError: a number that cannot work, with those that can.

    Source: ACmix, section 4; one axis is our reading, the authors have two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int | str = 4,
        attention_size: int = 7,
        conv_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        check_numbers(in_channels, out_channels, attention_size, conv_size, stride, dilation)
        heads = choose_heads(out_channels, heads)
        super().__init__(Mixing())
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.head_dim = heads, out_channels // heads
        self.attention_size, self.conv_size = attention_size, conv_size
        self.stride, self.dilation = stride, dilation
        self.query = nn.Conv1d(in_channels, out_channels, 1)
        self.key = nn.Conv1d(in_channels, out_channels, 1)
        self.value = nn.Conv1d(in_channels, out_channels, 1)
        self.position = nn.Conv1d(1, self.head_dim, 1)
        geometry = dict(conv_size=(1, conv_size), bias=False, stride=stride, dilation=dilation)
        self.add_path(Mixing(), heads, self.head_dim, **geometry)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, L) -> (B, C, ceil(L/stride))."""
        if x.dim() != 3 or x.shape[1] != self.in_channels:
            raise UsageError(f"the input has shape {tuple(x.shape)}; expected (B, {self.in_channels}, L)")
        projections = (self.query, self.key, self.value)
        weight = torch.cat([each.weight for each in projections])  # (3·C, in_channels, 1)
        bias = torch.cat([each.bias for each in projections if each.bias is not None])  # (3·C,)
        qkv = F.conv1d(x, weight, bias).transpose(1, 2).contiguous()[:, None]  # (B, 1, L, 3·C): a map of one row
        qkv = qkv.view(*qkv.shape[:3], 3, self.heads, self.head_dim)  # (B, 1, L, 3, N, D)
        line = evenly_spaced(x.shape[2], self.position.weight)[None, None]  # (1, 1, L)
        attention = ops.local_attention(
            qkv,
            self.position(line).transpose(1, 2),  # (1, L, D)
            size=(1, self.attention_size),
            stride=self.stride,
            dilation=self.dilation,
        )  # (B, 1, Lo, C)
        assert self.conv_path is not None
        conv = self.conv_path(qkv.flatten(3, 4), rate=self.rate_conv)  # (B, 1, Lo, C)
        out = torch.addcmul(conv, attention, self.rate_attention)  # (B, 1, Lo, C)
        return out[:, 0].transpose(1, 2).contiguous()  # (B, C, Lo)

    def gmacs(self, length: int) -> float:
        """10⁹ multiply-adds for one sequence: what torch's FlopCounterMode counts, halved."""
        out_length = (length - 1) // self.stride + 1
        assert self.conv_path is not None
        projections = length * (3 * self.in_channels * self.out_channels + self.head_dim)
        attention = 2 * out_length * self.attention_size * self.out_channels
        return (projections + attention + self.conv_path.multiply_adds(length, out_length)) / 1e9

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, heads={self.heads}, attention_size={self.attention_size}, "
            f"conv_size={self.conv_size}, stride={self.stride}, dilation={self.dilation}"
        )
