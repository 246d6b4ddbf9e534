"""Local attention equals its equations, in every dtype and memory layout, and so do its gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from acmix import ops
from acmix.ops.local_attention.cases import CASES, Case
from acmix.ops.neighbours import reflected
from acmix.testing import oracle
from acmix.testing.judge import results_of
from tests.support.cases import label

every_case = pytest.mark.parametrize("case", CASES, ids=label)


@every_case
@pytest.mark.usefixtures("empty_is_nan")
def test_every_gradient_is_the_slope_of_the_equation(case: Case) -> None:
    tensors = case.tensors(torch.float64)
    draw = torch.Generator().manual_seed(2)
    step = {name: 1e-5 * torch.randn(each.shape, generator=draw, dtype=each.dtype) for name, each in tensors.items()}
    if case.layout == "expanded":
        step["qkv"] = step["qkv"][:1].expand_as(step["qkv"])
    upstream = torch.randn(case.call(tensors).shape, generator=draw, dtype=torch.float64)
    grads = torch.autograd.grad(case.call(tensors), list(tensors.values()), upstream)
    moved = ({name: each + sign * step[name] for name, each in tensors.items()} for sign in (1, -1))
    ahead, behind = (oracle.expected(case, each) for each in moved)
    rise = sum((grad * step[name]).sum().item() for name, grad in zip(tensors, grads, strict=True))
    assert rise == pytest.approx(((ahead - behind) * upstream).sum().item() / 2, rel=1e-5, abs=1e-11)


# a sum of hundreds of neighbours rounds more often
@pytest.mark.parametrize("case", [case for case in CASES if max(case.size) < 100], ids=label)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_makes_only_errors_of_its_own_rounding(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    found = results_of(case, "reference", tensors)
    true = results_of(case, "reference", {n: t.detach().double().requires_grad_() for n, t in tensors.items()})
    assert found["output"].dtype == dtype
    # on a map of one pixel the position's gradient is zero, so all gradients share one yardstick
    largest = max([each.abs().max().item() for name, each in true.items() if each.numel()], default=1.0)
    for name, value in true.items():
        bound = (6 if name == "output" else 12) * torch.finfo(dtype).eps
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=bound * largest)


@pytest.mark.parametrize(("side", "reach"), [(4, 3), (7, 3), (2, 1), (20, 19)])
def test_where_reflection_padding_is_legal_the_mirror_is_that(side: int, reach: int) -> None:
    line = torch.arange(side, dtype=torch.float32)
    padded = F.pad(line[None, None], (reach, reach), mode="reflect")[0, 0]
    assert torch.equal(line[reflected(side, reach, line.device)], padded)


def test_the_mirror_bounces_as_often_as_it_takes() -> None:
    assert reflected(3, 5, torch.device("cpu")).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    assert reflected(1, 3, torch.device("cpu")).tolist() == [0] * 7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": 4}, "size=4; expected odd sides"),
        ({"size": (3, 2)}, r"size=\(3, 2\); expected odd sides"),
        ({"stride": 0}, "stride=0, dilation=1; both must be at least 1"),
        ({"dilation": 0}, "stride=1, dilation=0; both must be at least 1"),
        ({"position": torch.zeros(5, 4, 8)}, r"position must have shape \(H, W, D\) = \(4, 5, 8\)"),
        ({"qkv": torch.zeros(2, 4, 5, 48)}, r"qkv has shape \(2, 4, 5, 48\); expected \(B, H, W, 3, N, D\)"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.local_attention(**{"qkv": torch.zeros(2, 4, 5, 3, 2, 8), "size": 3, **changed})


@pytest.mark.parametrize("scale", [None, -0.5])
@pytest.mark.parametrize("side", [1, 5])
def test_huge_logits_give_what_the_equation_gives(side: int, scale: float | None) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, side, side, 3, 2, 8) * torch.tensor([1e6, 1e6, 1.0]).view(3, 1, 1)
    position = torch.randn(side, side, 8)

    def outcome() -> list[torch.Tensor]:
        given = qkv.clone().requires_grad_()
        out = ops.local_attention(given, position, size=3, scale=scale)
        return [out.detach(), torch.autograd.grad(out.square().sum(), given)[0][..., 2, :, :]]

    with ops.use("reference"):
        expected = outcome()
    # NaN in the kernel's memory, which the lanes behind a row's last pixel see
    ops.local_attention(torch.full_like(qkv, math.nan).requires_grad_(), position, size=3, scale=scale).sum().backward()
    for found, right in zip(outcome(), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_a_square_is_a_pair_of_equal_sides() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(1, 5, 4, 3, 2, 3)
    assert torch.equal(ops.local_attention(qkv, size=3), ops.local_attention(qkv, size=(3, 3)))


@pytest.mark.parametrize("size", [2, (3, 2), (0, 3)])
def test_a_neighbourhood_without_a_middle_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="odd sides"):
        ops.local_attention(torch.randn(1, 4, 4, 3, 1, 2), size=size)  # type: ignore[arg-type]
