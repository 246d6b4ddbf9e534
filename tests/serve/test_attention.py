"""The weights that a page shows are those that the network multiplies by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import acmix
from acmix.layers import ACmix2d, GlobalAttention, ReductionAttention, WindowAttention
from acmix.serve.attention import Watch, looked
from acmix.serve.explain import kernels_of, paths_of

# one head: the mean over the heads is that head's
WINDOW = WindowAttention(8, 1, (4, 4))
SHIFTED = dict(shift=(2, 2))


def values(layer: Any, x: Tensor) -> Tensor:
    """v of every pixel: (h·w, D)."""
    if isinstance(layer, WindowAttention):
        return layer.qkv(x)[0, ..., 16:].flatten(0, 1)
    if isinstance(layer, GlobalAttention):
        return layer.qkv(x)[0, 1:, 16:]
    if isinstance(layer, ReductionAttention):
        return layer.kv(layer.reduce(x, (6, 8))[0])[0, :, 8:]
    return layer.value(x)[0].flatten(1).T


@pytest.mark.parametrize(
    ("layer", "shape", "named"),
    [
        (WINDOW, (1, 6, 9, 8), {}),
        (WINDOW, (1, 6, 9, 8), SHIFTED),
        (ReductionAttention(8, 1, 2), (1, 48, 8), {"grid": (6, 8)}),
        (ACmix2d(8, 8, heads=1, attention_size=5), (1, 8, 7, 6), {}),
        (ACmix2d(8, 8, heads=1, attention_size=7, stride=2), (1, 8, 9, 5), {}),
    ],
)
@torch.inference_mode()
def test_weights_give_what_the_attention_gives(layer: Any, shape: tuple[int, ...], named: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    for place in ((0.0, 0.0), (0.4, 0.7), (1.0, 1.0)):
        found = looked("it", layer, (x,), named, place)
        assert found is not None
        assert found.weights.sum().item() == pytest.approx(1, abs=1e-5)
        ours = found.weights.flatten() @ values(layer, x)
        if isinstance(layer, WindowAttention):
            qkv = layer.qkv(x).unflatten(3, (3, 1, 8))
            theirs = layer.attend(qkv, named.get("shift", (0, 0)))[0][found.pixel]
        elif isinstance(layer, ACmix2d):
            theirs = layer.attend(layer.projected(x).view(1, *x.shape[2:], 3, 1, 8))[0][found.pixel]
        else:
            q, kv = layer.q(x)[0], layer.kv(layer.reduce(x, named["grid"])[0])[0]
            row = q[found.pixel[0] * named["grid"][1] + found.pixel[1]]
            theirs = (row @ kv[:, :8].T * 8**-0.5).softmax(0) @ kv[:, 8:]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("acmix_deit_tiny_patch16_224", {"depth": 1, "embed_dim": 12, "num_heads": 2, "img_size": 64}),
        ("acmix_san10", {"layers": (1, 1, 1, 1, 1)}),
    ],
)
def test_other_families_are_seen(name: str, arguments: dict[str, Any]) -> None:
    model = acmix.create_model(name, num_classes=3, **arguments).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)
        with Watch(model, (0.5, 0.5)) as watch:
            assert torch.equal(model(image), expected) or name.endswith("224")
        assert torch.equal(model(image), expected)
    assert watch.seen is image
    assert watch.found
    for one in watch.found.values():
        assert one.weights.isfinite().all()
        assert one.weights.max() > 0


def test_effective_kernels_are_those_of_the_path() -> None:
    layer = ACmix2d(8, 8, heads=2)
    info: Any = None
    told = kernels_of(nn.Sequential(layer), info, "0", 5)
    assert layer.conv_path is not None
    expected = layer.conv_path.kernels_of_pieces()[5]  # (6, 3, 3)
    assert torch.equal(torch.tensor([kernel for name in "qkv" for kernel in told["kernels"][name]]), expected)
    [block] = paths_of(nn.Sequential(layer), info)["blocks"]
    sizes = layer.conv_path.kernels_of_pieces()[:, :2].square().mean((0, 1)).sqrt()
    torch.testing.assert_close(torch.tensor(block["kernels"]["q"]), sizes, rtol=0, atol=1e-6)
