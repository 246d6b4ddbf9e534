"""The two attentions of SAN are their equations, pixel by pixel."""

import pytest
import torch

from acmix.layers import Mixing, PairwiseAttention, PatchwiseAttention
from acmix.testing.oracle_local import mirrored


def attention(kind, **kwargs):
    """A layer in float64 and evaluation mode whose parameters and statistics have all moved."""
    torch.manual_seed(0)
    layer = kind(32, 3, **kwargs).double().eval()
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor)) if "running_var" in name else tensor.add_(
                0.1 * torch.randn_like(tensor)
            )
    return layer


def batch_norm(norm, x):
    """Over the last dimension, by the running statistics."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("mixing", [None, Mixing()], ids=["plain", "mixed"])
@pytest.mark.parametrize("kind", [PatchwiseAttention, PairwiseAttention])
def test_san_s_attentions_are_their_equations_pixel_by_pixel(kind, mixing):
    layer = attention(kind, mixing=mixing)
    B, H, W = 2, 4, 3
    x = torch.randn(B, 32, H, W, dtype=torch.float64)
    qkv = layer.qkv(x.permute(0, 2, 3, 1))
    q, k, v = qkv[..., :2], qkv[..., 2:4], qkv[..., 4:]  # R = 2, V = 8, one group of 8
    expected = torch.zeros(B, H, W, 8, dtype=torch.float64)
    for y in range(H):
        for x_ in range(W):
            near = [(mirrored(y + r, H), mirrored(x_ + c, W)) for r in (-1, 0, 1) for c in (-1, 0, 1)]
            if kind is PatchwiseAttention:
                inner = torch.cat([q[:, y, x_], *[k[:, i, j] for i, j in near]], 1)
                hidden = layer.reduce(batch_norm(layer.norm1, inner).relu())
                weights = layer.expand(batch_norm(layer.norm2, hidden).relu())  # (B, O)
            else:
                place = lambda i, j: torch.tensor([2 * j / (W - 1) - 1, 2 * i / (H - 1) - 1], dtype=torch.float64)  # noqa: E731
                pairs = []
                for i, j in near:
                    apart = layer.position(place(y, x_)) - layer.position(place(i, j))
                    pairs.append(torch.cat([q[:, y, x_] - k[:, i, j], apart.expand(B, 2)], 1))
                hidden = layer.reduce(batch_norm(layer.norm1, torch.stack(pairs, 1)).relu())
                weights = layer.expand(batch_norm(layer.norm2, hidden).relu())[..., 0].softmax(1)  # (B, O)
            for o, (i, j) in enumerate(near):
                expected[:, y, x_] += weights[:, o, None] * v[:, i, j]
    if mixing is not None:
        path = layer.conv_path(qkv.unflatten(3, (6, 2)))
        expected = layer.rate_attention * expected + layer.rate_conv * path
    torch.testing.assert_close(layer(x).permute(0, 2, 3, 1), expected, rtol=1e-10, atol=1e-12)
