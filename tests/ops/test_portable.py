"""The form of an operator in graphs that leave PyTorch computes what the reference does."""

from __future__ import annotations

import pytest
import torch

from acmix.ops import dispatch
from acmix.ops.cases import Case
from tests.support.cases import CASES, label

every_case = pytest.mark.parametrize("case", CASES, ids=label)


def both(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What the form that leaves gives, and what the reference gives."""
    tensors = {name: tensor.detach() for name, tensor in case.tensors(dtype).items()}
    parts = dispatch.OPERATORS[case.operator].parts
    arguments = dispatch.arguments_of(case.operator, **tensors, **case.settings)
    return parts["portable"].forward(arguments), parts["reference"].forward(arguments)


@every_case
def test_it_gives_what_the_reference_gives(case):
    found, expected = both(case, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every_case
def test_half_precision_comes_as_near(case):
    found, expected = both(case, torch.float16)
    (_, exact) = both(case, torch.float64)
    assert found.dtype == expected.dtype
    error, allowed = ((each.double() - exact).abs() for each in (found, expected))
    if exact.numel():
        assert error.max() <= 2 * allowed.max() + 1e-3 * exact.abs().max()
