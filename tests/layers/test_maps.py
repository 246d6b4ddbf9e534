"""Maps as they come in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from acmix.layers.maps import projected_pixels


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("lies", ["one after the other", "channels last", "as a part"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_pixels_are_projected_as_by_a_convolution(batch: int, lies: str, has_bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 5, 4, 6, generator=draw, dtype=torch.float64)
    if lies == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif lies == "as a part":
        x = torch.cat([x, x], 3)[..., 3:9]
    x.requires_grad_()
    weight = torch.randn(7, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, generator=draw, dtype=torch.float64, requires_grad=True) if has_bias else None
    found = projected_pixels(x, weight, bias)
    expected = F.conv2d(x, weight[:, :, None, None], bias).flatten(2).transpose(1, 2)
    assert found.shape == (batch, 24, 7)
    torch.testing.assert_close(found, expected)
    inputs = [each for each in (x, weight, bias) if each is not None]
    grads = (torch.autograd.grad(each.sin().sum(), inputs) for each in (found, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
