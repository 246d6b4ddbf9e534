"""Local attention equals its equations, in every dtype and memory layout, and so do its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix import ops
from acmix.ops.neighbours import reflected
from acmix.testing import oracle_local
from acmix.testing.cases_local import LOCAL_CASES, LocalCase
from acmix.testing.check import results

every_case = pytest.mark.parametrize("case", LOCAL_CASES, ids=lambda case: case.name)
# one of each kind, for what is slow
SOME = [case for case in LOCAL_CASES if case.name in ("stride 2, even and odd side", "dilation 2", "no position")]
SOME += [LocalCase("small", map_size=(1, 2, 3), head_dim=2, size=(5, 3)), LocalCase("no image", map_size=(0, 2, 3))]
some_cases = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)


def exact(case: LocalCase, tensors: dict[str, Tensor]) -> Tensor:
    """What the loops give for the same numbers."""
    arrays = {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}
    return torch.from_numpy(oracle_local.local_attention(**{"position": None, **arrays}, **case.settings))


@every_case
def test_local_attention_is_its_equation(case: LocalCase) -> None:
    tensors = case.tensors(torch.float64)
    torch.testing.assert_close(case.call(tensors).detach(), exact(case, tensors), rtol=0, atol=1e-12)


@every_case
@pytest.mark.usefixtures("empty_is_nan")
def test_every_gradient_is_the_slope_of_the_equation(case: LocalCase) -> None:
    tensors = case.tensors(torch.float64)
    draw = torch.Generator().manual_seed(2)
    step = {name: 1e-5 * torch.randn(each.shape, generator=draw, dtype=each.dtype) for name, each in tensors.items()}
    if case.layout == "expanded":
        step["qkv"] = step["qkv"][:1].expand_as(step["qkv"])
    upstream = torch.randn(case.call(tensors).shape, generator=draw, dtype=torch.float64)
    grads = torch.autograd.grad(case.call(tensors), list(tensors.values()), upstream)
    ahead, behind = (exact(case, {n: each + sign * step[n] for n, each in tensors.items()}) for sign in (1, -1))
    rise = sum((grad * step[name]).sum().item() for name, grad in zip(tensors, grads, strict=True))
    assert rise == pytest.approx(((ahead - behind) * upstream).sum().item() / 2, rel=1e-5, abs=1e-11)


@some_cases
def test_gradcheck_holds(case: LocalCase) -> None:
    tensors = case.tensors(torch.float64)

    def call(*values: Tensor) -> Tensor:
        return case.call(dict(zip(tensors, values, strict=True)))

    assert torch.autograd.gradcheck(call, tuple(tensors.values()), fast_mode=case.name != "small")


@some_cases
def test_the_operator_keeps_pytorch_s_rules(case: LocalCase) -> None:
    tensors = case.tensors()
    scale = case.head_dim**-0.5
    arguments = (tensors["qkv"], tensors.get("position"), case.size, case.stride, case.dilation, scale)
    torch.library.opcheck(torch.ops.acmix.local_attention.default, arguments)


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_makes_only_errors_of_its_own_rounding(case: LocalCase, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    found = results(case, "reference", tensors)
    true = results(case, "reference", {n: t.detach().double().requires_grad_() for n, t in tensors.items()})
    assert found["output"].dtype == dtype
    # on a map of one pixel the position's gradient is zero, so all gradients share one yardstick
    largest = max([each.abs().max().item() for name, each in true.items() if each.numel()], default=1.0)
    for name, value in true.items():
        bound = (6 if name == "output" else 12) * torch.finfo(dtype).eps
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=bound * largest)


@some_cases
@pytest.mark.usefixtures("empty_is_nan")
def test_gradients_are_bit_equal_twice_under_deterministic_algorithms(case: LocalCase) -> None:
    first, second = (results(case, "reference", case.tensors()) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.isfinite().all(), name


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
