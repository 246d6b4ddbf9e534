"""ACmix's ResNet layer as the released code computes it, to be measured beside: every neighbourhood laid out in memory.

Written from the equations. Keys, positions and values are unfolded to K² numbers for each of theirs, so that a map of C
channels becomes two of K²·C; the convolution path is fc as a 1×1 convolution, then a convolution in D groups.

Shapes: B batch · H, W map · Ho, Wo of the output · N heads · D channels a head · C = N·D · K neighbourhood · k taps
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ACmix2d


class ReleasedACmix2d(nn.Module):
    """Computes what an ACmix2d computes, from the same parameters.

        out_i = α · softmax_j(D^-½·q_i·(k_j + p_i − p_j))·v_j + β · conv path(q, k, v)_i

    Args:
        layer: whose parameters are taken, and shared.
    """

    def __init__(self, layer: ACmix2d) -> None:
        super().__init__()
        assert layer.dilation == 1, "the released code knows no dilation"
        self.heads, self.head_dim, self.stride = layer.heads, layer.head_dim, layer.stride
        self.attention_size, self.conv_size = layer.attention_size, layer.conv_size
        self.query, self.key, self.value, self.position = layer.query, layer.key, layer.value, layer.position
        assert layer.conv_path is not None
        self.conv_path = layer.conv_path
        self.rate_attention, self.rate_conv = layer.rate_attention, layer.rate_conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, Ho, Wo)."""
        q, k, v = self.query(x), self.key(x), self.value(x)  # (B, C, H, W) each
        return self.rate_attention * self.attention(q, k, v) + self.rate_conv * self.convolution(q, k, v)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """3 × (B, C, H, W) -> (B, C, Ho, Wo)."""
        batch, channels, height, width = q.shape
        q, k, v = (each.reshape(batch * self.heads, self.head_dim, height, width) for each in (q, k, v))
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, side).to(q) for side in (height, width)), indexing="ij")
        p = self.position(torch.stack([x, y])[None])  # (1, D, H, W)
        keys, positions, values = self.unfold(k), self.unfold(p), self.unfold(v)  # (…, D, K², Ho, Wo) each
        p, q = (each[:, :, :: self.stride, :: self.stride, None].movedim(4, 2) for each in (p, q))  # (…, D, 1, Ho, Wo)
        logits = (q * self.head_dim**-0.5 * (keys + p - positions)).sum(1)  # (B·N, K², Ho, Wo)
        out = (logits.softmax(1)[:, None] * values).sum(2)  # (B·N, D, Ho, Wo)
        return out.reshape(batch, channels, *out.shape[2:])

    def unfold(self, x: Tensor) -> Tensor:
        """The neighbourhood of every pixel of the output: (B, D, H, W) -> (B, D, K², Ho, Wo)."""
        size = self.attention_size
        out = [(side - 1) // self.stride + 1 for side in x.shape[2:]]
        columns = F.unfold(F.pad(x, [size // 2] * 4, mode="reflect"), size, stride=self.stride)
        return columns.view(x.shape[0], x.shape[1], size * size, *out)

    def convolution(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """3 × (B, C, H, W) -> (B, C, Ho, Wo), channels d-major."""
        kernels = self.conv_path.kernels
        assert kernels is not None, "the released code has no path of other kinds"
        batch, _, height, width = q.shape
        pieces = torch.cat([each.view(batch, self.heads, self.head_dim, -1) for each in (q, k, v)], 1)  # (B, 3N, D, HW)
        maps = F.conv2d(pieces, self.conv_path.fc_weight[:, :, None, None])  # (B, k², D, H·W)
        image = maps.permute(0, 2, 1, 3).reshape(batch, -1, height, width)  # (B, D·k², H, W)
        padding = self.conv_size // 2
        return F.conv2d(image, kernels, stride=self.stride, padding=padding, groups=self.head_dim)


def released(model: nn.Module) -> nn.Module:
    """A copy of a model whose every ACmix2d is computed as the released code does; names of parameters stay."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ACmix2d):
                setattr(parent, name, ReleasedACmix2d(child))
    return model
