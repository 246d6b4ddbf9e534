"""Every operator's reference is what its equation says: loops over numbers agree, and differences confirm gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from acmix.ops import dispatch
from acmix.ops.cases import Case
from acmix.testing import oracle
from acmix.testing.judge import check, relative_error, results_of
from tests.support.cases import CASES, OPERATORS, case_named, label

pytestmark = pytest.mark.usefixtures("empty_is_nan")
every_case = pytest.mark.parametrize("case", CASES, ids=label)

# Errors of the reference in rounding steps of the dtype, over all cases: at most 6.1 when this was written.
STEPS = 16
# small enough for every entry of a Jacobian
SMALL = (
    replace(case_named("conv_path", "shifted"), map_size=(1, 3, 5), head_dim=2, heads=1),
    replace(case_named("conv_path", "stride 2, even and odd side"), map_size=(1, 3, 5), head_dim=2, heads=1),
    replace(case_named("window_attention", "no multiple of the window, shifted"), map_size=(1, 3, 5), heads=1),
    replace(case_named("local_attention", "rectangular neighbourhood, upright"), map_size=(1, 2, 3), head_dim=2),
    replace(case_named("patchwise_attention", "rectangular neighbourhood"), map_size=(1, 2, 3)),
    case_named("patchwise_attention", "one pixel"),
    case_named("patchwise_attention", "one neighbour"),
)


def detached(case: Case) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in case.tensors(torch.float64).items()}


def test_uninitialised_memory_is_nan_here() -> None:
    assert torch.empty(100).isnan().all()
    assert torch.ones(3).new_empty(7).isnan().all()
    assert torch.empty_like(torch.ones(5, dtype=torch.float16)).isnan().all()


def test_every_operator_has_cases_and_their_names_differ() -> None:
    names = [label(case) for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.operator for case in CASES} == set(OPERATORS)


@every_case
def test_the_reference_equals_the_oracle(case: Case) -> None:
    tensors = detached(case)
    found = case.call(tensors)
    assert found.is_contiguous()
    assert relative_error(found, oracle.expected(case, tensors)) < 1e-12


@pytest.mark.parametrize("case", [case for case in CASES if case.map_size[0]], ids=label)
def test_gradients_equal_differences(case: Case) -> None:
    names = list(case.tensors())
    # a view with a step of 0 cannot be changed one number at a time
    tensors = [tensor.contiguous().requires_grad_() for tensor in detached(case).values()]

    def call(*values: Tensor) -> Tensor:
        return case.call(dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=label)
def test_every_entry_of_the_jacobian_equals_differences(case: Case) -> None:
    names = list(case.tensors())

    def call(*values: Tensor) -> Tensor:
        return case.call(dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, list(case.tensors(torch.float64).values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@every_case
def test_the_reference_is_as_exact_as_its_dtype(case: Case, dtype: torch.dtype) -> None:
    for error in check(case, "reference", dtype):
        assert error.ours <= STEPS * torch.finfo(dtype).eps, str(error)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["planes", "slice"])
def test_another_layout_in_memory_does_not_change_the_result(operator: str, layout: str) -> None:
    plain = dispatch.OPERATORS[operator].parts["cases"].CASES[1]
    assert plain.layout == "contiguous"
    one, other = (
        results_of(each, "reference", each.tensors(torch.float64)) for each in (plain, replace(plain, layout=layout))
    )
    assert all(relative_error(other[name], one[name]) < 1e-14 for name in one)


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_are_bit_equal_twice_under_deterministic_algorithms(operator: str) -> None:
    for case in dispatch.OPERATORS[operator].parts["cases"].CASES[:4]:
        first, second = (results_of(case, "reference", case.tensors()) for _ in range(2))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
            assert value.isfinite().all(), name
