"""The form that speed is measured beside computes what this library computes, and is what stands in the model."""

from __future__ import annotations

import pytest
import torch

import acmix
from acmix.benchmark.released_form import ReleasedACmix2d, released


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"attention_size": 3, "conv_size": 5, "heads": 2}], ids=str)
@pytest.mark.parametrize("size", [(14, 14), (9, 11)], ids=str)
def test_output_and_every_gradient_equal_the_layer_s(options: dict, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = acmix.ACmix2d(6, 8, **options)
    assert layer.conv_path is not None
    assert layer.conv_path.kernels is not None
    torch.nn.init.normal_(layer.conv_path.kernels)
    x = torch.randn(2, 6, *size)
    found = []
    for module in (layer, ReleasedACmix2d(layer)):
        out = module(x)
        draw = torch.Generator().manual_seed(1)
        # the sum of squares would hide a sign
        (out * torch.randn(out.shape, generator=draw)).sum().backward()
        found.append({"output": out.detach()} | {name: value.grad for name, value in module.named_parameters()})
        module.zero_grad()
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text)


def test_every_layer_of_a_model_is_replaced_and_the_weights_stay() -> None:
    model = acmix.create_model("acmix_resnet26", num_classes=10).eval()
    other = released(model)
    assert sum(isinstance(module, ReleasedACmix2d) for module in other.modules()) == 8
    assert not any(isinstance(module, acmix.ACmix2d) for module in other.modules())
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in model.named_parameters()]
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        ours = model(x)
        assert (other(x) - ours).abs().max() <= 1e-4 * ours.abs().max()
