"""Modules: what they start as, what they compute, what survives copying."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import acmix
from acmix.errors import UsageError
from acmix.layers import ConvPath, Mixing, WindowAttention
from acmix.testing import oracle


def attention(**kwargs):
    """Window attention in float64 whose parameters have all moved away from where they start."""
    torch.manual_seed(0)
    layer = WindowAttention(12, 3, (4, 4), **kwargs).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def by_loops(layer, x, shift):
    """The layer's equation, with the oracle's operators."""
    qkv = layer.qkv(x).detach()
    heads, dim = layer.heads, layer.head_dim
    split = qkv.view(*x.shape[:3], 3, heads, dim)
    table = layer.relative_position_bias_table.detach()
    out = layer.proj(oracle.window_attention(split, table, window=layer.window, shift=shift))
    if layer.conv_path is None:
        return out
    path = layer.conv_path
    pieces = qkv.view(*x.shape[:3], 3 * heads, dim)
    conv = oracle.conv_path(pieces, path.fc_weight.detach(), path.fc_bias.detach(), path.kernels.detach(), shift=shift)
    return layer.rate_attention * out + layer.rate_conv * conv


def test_kernels_start_as_shifts_and_rates_as_a_half():
    for conv_size in (1, 3, 5):
        kernels = ConvPath(2, 3, conv_size=conv_size).kernels
        assert kernels.shape == (6, conv_size**2, conv_size, conv_size)
        for t in range(conv_size**2):
            assert kernels[:, t, t // conv_size, t % conv_size].eq(1).all()
        assert kernels.sum() == 6 * conv_size**2
    layer = WindowAttention(12, 3, (4, 4))
    assert layer.rate_attention.tolist() == layer.rate_conv.tolist() == [0.5]


def test_a_host_that_initialises_its_convolutions_leaves_the_kernels_alone():
    model: Any = nn.Sequential(nn.Conv2d(3, 12, 1), ConvPath(2, 3), WindowAttention(12, 3, (4, 4)))
    before = [copy.deepcopy(model[1].kernels), copy.deepcopy(model[2].conv_path.kernels)]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    assert torch.equal(model[1].kernels, before[0])
    assert torch.equal(model[2].conv_path.kernels, before[1])


def test_fc_has_a_bias_unless_told_otherwise():
    assert ConvPath(2, 3).fc_bias.shape == (9,)
    assert ConvPath(2, 3, bias=False).fc_bias is None
    assert "fc_bias" not in ConvPath(2, 3, bias=False).state_dict()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_path_of_its_own_pieces_equals_the_oracle(stride):
    path: Any = ConvPath(4, 3, pieces=6, bias=False, stride=stride, dilation=2).double()
    nn.init.normal_(path.kernels)
    pieces = torch.randn(1, 5, 6, 6, 3, dtype=torch.float64)
    expected = oracle.conv_path(pieces, path.fc_weight.detach(), None, path.kernels.detach(), stride=stride, dilation=2)
    torch.testing.assert_close(path(pieces), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (3, 2), (4, 9)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (1, 0)])
@pytest.mark.parametrize("conv_path", [False, True])
def test_window_attention_is_its_equation_at_any_size(size, shift, conv_path):
    layer = attention(mixing=Mixing() if conv_path else None)
    x = torch.randn(1, *size, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x, shift), by_loops(layer, x, shift), rtol=0, atol=1e-11)


def test_what_the_projection_would_make_of_padding_does_not_matter():
    layer = attention()
    # the same in every pixel, so softmax cancels it in q·k only if no pixel of zeros takes part
    layer.qkv.bias.data[12:24] = 1e3
    x = torch.randn(1, 5, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x, (2, 2)), by_loops(layer, x, (2, 2)), rtol=1e-9, atol=1e-9)


def test_a_layer_can_be_copied_and_pickled_after_its_backward_pass():
    layer = attention()
    x = torch.randn(2, 8, 8, 12, dtype=torch.float64)
    layer(x, (2, 2)).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, (2, 2)), layer(x, (2, 2)))


def test_every_parameter_gets_a_gradient():
    layer = attention()
    layer(torch.randn(2, 7, 9, 12, dtype=torch.float64), (2, 2)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_layer_works_in_every_dtype(dtype):
    layer = attention()
    x = torch.randn(1, 6, 7, 12, dtype=torch.float64)
    exact = layer(x, (2, 2)).detach()
    out = copy.deepcopy(layer).to(dtype)(x.to(dtype), (2, 2))
    assert out.dtype == dtype
    assert (out.double() - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.abs().max()


def test_the_path_is_public():
    assert acmix.ConvPath is ConvPath


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvPath(0, 4), "heads=0, head_dim=4; both must be at least 1"),
        (lambda: ConvPath(2, 4, conv_size=2), "conv_size=2; .* odd kernel, e.g. 3"),
        (lambda: ConvPath(2, 4, stride=0), "stride=0, dilation=1; both must be at least 1"),
        (lambda: ConvPath(2, 4, pieces=0), "pieces=0; .* at least 1"),
        (lambda: WindowAttention(12, 5, (4, 4)), r"5 heads do not divide 12 channels; .*\[1, 2, 3, 4, 6, 12\]"),
        (lambda: WindowAttention(12, 0, (4, 4)), "0 heads do not divide 12 channels"),
        (lambda: WindowAttention(12, 3, (0, 4)), r"window=\(0, 4\); both sides must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()
