"""ACmix on sequences: equal to its equations, written as loops over scalars."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acmix.layers import Mixing
from acmix.layers.acmix1d import ACmix1d


def loops(layer: ACmix1d, x: Tensor) -> Tensor:
    """ACmix1d from its equations, one number at a time."""
    batch, _, length = x.shape
    heads, width, stride, dilation = layer.heads, layer.head_dim, layer.stride, layer.dilation
    reach, arm = layer.attention_size // 2, layer.conv_size // 2
    q, k, v = (
        torch.einsum("oi,bil->bol", each.weight[:, :, 0], x) + each.bias[:, None]
        for each in (layer.query, layer.key, layer.value)
    )
    place = [-1.0 + 2.0 * i / max(length - 1, 1) for i in range(length)]
    position = [[layer.position.weight[d, 0, 0] * x_i + layer.position.bias[d] for d in range(width)] for x_i in place]
    pieces = [each[:, n * width : (n + 1) * width] for each in (q, k, v) for n in range(heads)]
    fc, kernels = layer.conv_path.fc_weight, layer.conv_path.kernels

    def mirrored(i: int) -> int:
        while not 0 <= i < length:
            i = 0 if length == 1 else (-i if i < 0 else 2 * (length - 1) - i)
        return i

    out = torch.zeros(batch, layer.out_channels, -(-length // stride), dtype=x.dtype)
    for b in range(batch):
        for o in range(out.shape[2]):
            i = o * stride
            near = [mirrored(i + dilation * step) for step in range(-reach, reach + 1)]
            for n in range(heads):
                rows = range(n * width, (n + 1) * width)
                logits = torch.stack(
                    [
                        sum(
                            (q[b, c, i] * (k[b, c, j] - position[j][c - n * width]) for c in rows),
                            torch.zeros((), dtype=q.dtype),
                        )
                        for j in near
                    ]
                ) / math.sqrt(width)
                weights = logits.softmax(0)
                for c in rows:
                    out[b, c, o] += layer.rate_attention[0] * sum(
                        w * v[b, c, j] for w, j in zip(weights, near, strict=True)
                    )
            for d in range(width):
                for n in range(heads):
                    for tap in range(layer.conv_size):
                        j = i + dilation * (tap - arm)
                        if not 0 <= j < length:
                            continue
                        for t in range(layer.conv_size):
                            f = sum(fc[t, p] * piece[b, d, j] for p, piece in enumerate(pieces))
                            out[b, d * heads + n, o] += layer.rate_conv[0] * kernels[d * heads + n, t, 0, tap] * f
    return out


@pytest.mark.parametrize(
    ("length", "settings"),
    [
        (9, {}),
        (1, {}),
        (2, {"attention_size": 9}),
        (8, {"stride": 2}),
        (7, {"stride": 2, "dilation": 2}),
        (6, {"heads": 1, "attention_size": 1, "conv_size": 5}),
        (5, {"heads": 6, "stride": 3}),
    ],
)
def test_acmix1d_is_its_equations(length: int, settings: dict) -> None:
    torch.manual_seed(0)
    layer = ACmix1d(3, 6, **{"heads": 2, **settings}).double()
    with torch.no_grad():
        layer.conv_path.kernels.normal_()
        x = torch.randn(2, 3, length, dtype=torch.float64)
        torch.testing.assert_close(layer(x), loops(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "dilation": 2}])
def test_acmix1d_has_true_gradients(settings: dict) -> None:
    torch.manual_seed(0)
    layer = ACmix1d(2, 4, heads=2, attention_size=3, **settings).double()
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, *layer.parameters()), fast_mode=True)


def test_acmix1d_costs_what_one_axis_costs() -> None:
    layer = ACmix1d(8, 16, stride=2)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 8, 33))
    assert counter.get_total_flops() == round(2e9 * layer.gmacs(33))
    assert layer.conv_path.kernels.shape == (16, 3, 1, 3)
    assert layer.conv_path.fc_weight.shape == (3, 12)


def test_acmix1d_weighs_its_two_paths_and_has_each_alone() -> None:
    both = ACmix1d(3, 6, heads=2, mixing=Mixing(rates=(0.7, -0.4))).double()
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    parts = []
    for path in ("attention", "convolution"):
        alone = ACmix1d(3, 6, heads=2, mixing=Mixing(path=path)).double()
        alone.load_state_dict({key: both.state_dict()[key] for key in alone.state_dict()})
        with FlopCounterMode(display=False) as counter:
            alone(x[:1])
        assert counter.get_total_flops() == round(2e9 * alone.gmacs(9))
        parts.append(alone(x))
    torch.testing.assert_close(both(x), 0.7 * parts[0] - 0.4 * parts[1])


def test_acmix1d_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 4, L\)"):
        ACmix1d(4, 8)(torch.zeros(1, 4, 5, 5))
    with pytest.raises(ValueError, match="looks like a channel count"):
        ACmix1d(4, 8, attention_size=1024)
