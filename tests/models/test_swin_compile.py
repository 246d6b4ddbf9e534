"""Swin compiles to one graph and exports with open batch and size."""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.export import Dim

import acmix
from acmix.layers import Mixed

TINY = "acmix_swin_tiny_patch4_window7_224"
TOY: dict[str, Any] = dict(
    img_size=64, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, mlp_ratio=1.0, num_classes=5
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return acmix.create_model(TINY, **TOY).eval()


@pytest.fixture
def separate_passes(monkeypatch):
    """Layers that add residual and projection in passes of their own, as a compiler sees them: the same to the bit."""
    monkeypatch.setattr(Mixed, "adds_in_path", lambda self, x: False)


@pytest.mark.slow
def test_one_compiled_graph_trains_as_the_plain_model_does(model, separate_passes):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 64, 64)
    found, expected = (torch.autograd.grad(run(x).sum(), list(model.parameters())) for run in (compiled, model))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
def test_another_batch_or_size_does_not_compile_again(model, separate_passes):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for size in ((2, 3, 64, 72), (5, 3, 64, 72), (2, 3, 81, 97)):
        x = torch.randn(size)
        assert torch.equal(compiled(x), model(x))
        assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}], ids=["batch", "all"]
)
def test_an_exported_model_takes_any_batch_and_size(model, sizes):
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(sizes,))
    # it holds PyTorch's own operators, so that it loads where acmix is not installed
    assert not [node for node in exported.graph.nodes if "acmix" in str(node.target)]
    shapes = [(3, 3, 64, 64), (1, 3, 64, 64)]
    # smaller than a window, larger than when exported, no multiple of anything
    shapes += [(2, 3, 16, 16), (1, 3, 96, 80), (3, 3, 49, 130)] if 2 in sizes else []
    for shape in shapes:
        x = torch.randn(shape)
        torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-5, atol=1e-6)
