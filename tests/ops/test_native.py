"""How a kernel is called: sizes travel as a row of numbers whose length is checked, tables hold what limits allow."""

from __future__ import annotations

import pytest
import torch

from acmix.ops import dispatch
from acmix.testing.cases_cpu import FULL_CASES, WIDE_CASES
from acmix.testing.judge import check
from tests.support.cases import label

OPERATORS = sorted(dispatch.OPERATORS)


def usual_call(operator):
    """The operator's `cpu` module and the arguments of its first case."""
    parts = dispatch.OPERATORS[operator].parts
    case = parts["cases"].CASES[0]
    tensors = {name: tensor.detach() for name, tensor in case.tensors().items()}
    return parts["cpu"], dispatch.arguments_of(operator, **tensors, **case.settings)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_another_count_of_sizes_than_the_kernel_s_is_refused_with_both(operator, direction, monkeypatch):
    kernel, arguments = usual_call(operator)
    passed, own = [], kernel.shape_of
    monkeypatch.setattr(kernel, "shape_of", lambda *given, **named: passed.append(own(*given, **named)) or passed[-1])
    out = kernel.forward(arguments)
    sizes = passed[0]
    symbol = f"acmix_{operator}" + ("_backward" if direction == "backward" else "")
    for wrong in (sizes[:-1], (*sizes, 1), ()):
        monkeypatch.setattr(kernel, "shape_of", lambda *_, wrong=wrong, **__: wrong)
        expected = f"^{symbol} takes {len(sizes)} sizes, and {len(wrong)} were passed$"
        with pytest.raises(AssertionError, match=expected):
            kernel.forward(arguments) if direction == "forward" else kernel.backward(torch.ones_like(out), arguments)


def every(cases):
    return [case for of_operator in cases.values() for case in of_operator]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", every(WIDE_CASES), ids=label)
def test_whole_vectors_are_as_right_as_the_reference(case, dtype, empty_is_nan):
    check(case, "cpu", dtype)


@pytest.mark.parametrize("case", every(FULL_CASES), ids=label)
def test_tables_hold_what_the_limits_allow(case, empty_is_nan):
    check(case, "cpu", torch.float32)
