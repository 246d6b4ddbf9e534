"""Convolutions in 16 bits on a processor without kernels for them: in fp32, from the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.tools import slow_convolutions
from acmix.tools.slow_convolutions import InSingle
from tests.support.formats import Formats

CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "conv1d": lambda x, w, b: F.conv1d(x[..., 0], w[..., 0], b, stride=2),
    "conv2d": lambda x, w, b: F.conv2d(x, w, b, padding=1),
    "same": lambda x, w, b: F.conv2d(x, w, b, padding="same"),
    "depthwise": lambda x, w, b: F.conv2d(x, w[:, :1], None, padding=1, groups=len(w)),
    "transposed": lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
    "by name": lambda x, w, b: torch.ops.aten.conv2d.default(input=x, weight=w, bias=b),
}


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without kernels in 16 bits, whichever this one is."""
    monkeypatch.setattr(slow_convolutions, "has_kernels", lambda dtype: dtype.itemsize > 2)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_slow_convolutions_are_exact_sums_that_are_rounded_once(
    name: str, dtype: torch.dtype, context: Callable[[], Any]
) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(shape, generator=draw).to(dtype) for shape in ((2, 8, 9, 7), (8, 8, 3, 3), (8,)))
    with context():
        exact = CALLS[name](x.double(), w.double(), b.double())
        with Formats() as formats, InSingle():
            found = CALLS[name](x, w, b)
    assert set(formats.seen) == {torch.float32}
    assert found.dtype == dtype
    # a rounding to the nearest number, beside fp32's own
    bound = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5
    assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.usefixtures("without_kernels")
def test_other_operators_and_formats_are_left_alone() -> None:
    x, w = torch.randn(1, 4, 6, 6), torch.randn(4, 4, 3, 3)
    with torch.no_grad():
        wanted = F.conv2d(x, w), x.half() @ x.half()
        with InSingle():
            found = F.conv2d(x, w), x.half() @ x.half()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.usefixtures("without_kernels")
def test_what_pytorch_refuses_and_what_writes_elsewhere_is_left_to_it() -> None:
    x, w = torch.randn(1, 4, 6, 6).half(), torch.randn(4, 4, 3, 3).half()
    with torch.no_grad(), InSingle():
        with pytest.raises(RuntimeError, match="should be the same"):
            F.conv2d(x, w, torch.zeros(4))
        out = torch.empty(0).half()
        torch.ops.aten.convolution.out(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, out=out)
    assert out.shape == (1, 4, 4, 4)


def test_a_processor_is_asked_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernels:
        _is_mkldnn_fp16_supported = staticmethod(lambda: True)
        _is_mkldnn_bf16_supported = staticmethod(lambda: False)

    ask = slow_convolutions.has_kernels.__wrapped__
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", Kernels())
    assert [ask(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [True, True, False]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [ask(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [True, False, False]
