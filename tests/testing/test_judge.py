"""What is right and what is wrong, beside the reference's own error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from acmix.ops import dispatch
from acmix.ops.conv_path import reference
from acmix.ops.conv_path.cases import CASES
from acmix.testing.judge import check, truth_of


def test_twice_the_reference_s_error_is_right_for_an_output_and_three_times_for_a_gradient() -> None:
    exact = {"output": torch.ones(3).double(), "grad x": torch.ones(3).double()}
    truth = truth_of(exact, {name: value + 1e-3 for name, value in exact.items()}, torch.float32)
    assert truth.faults({"output": exact["output"] + 1.9e-3, "grad x": exact["grad x"] + 2.9e-3}) == []
    (fault,) = truth.faults({"output": exact["output"] + 2.1e-3, "grad x": exact["grad x"]})
    assert fault.startswith("output is off by 2.1e-03")
    (fault,) = truth.faults({"output": exact["output"], "grad x": exact["grad x"] + 3.1e-3})
    assert fault.startswith("grad x is off by")


@pytest.mark.parametrize("found", [{}, {"output": torch.ones(2)}, {"output": torch.full((3,), float("nan"))}], ids=str)
def test_what_is_missing_misshapen_or_not_finite_is_wrong(found: dict[str, Tensor]) -> None:
    exact = {"output": torch.ones(3).double()}
    assert len(truth_of(exact, exact, torch.float32).faults(found)) == 1


def test_a_gradient_that_is_zero_but_for_rounding_is_judged_beside_the_largest() -> None:
    exact = {"output": torch.ones(2).double(), "grad a": torch.ones(2).double(), "grad b": torch.full((2,), 1e-17)}
    truth = truth_of(exact, exact, torch.float32)
    assert truth.faults({**exact, "grad b": torch.full((2,), 1e-8)}) == []
    assert len(truth.faults({**exact, "grad b": torch.full((2,), 1e-3)})) == 1


def test_a_gradient_of_one_number_is_judged_beside_the_largest_of_one_number() -> None:
    exact = {"output": torch.ones(2).double(), "grad a": torch.ones(1).double(), "grad b": torch.full((1,), 1e-5)}
    truth = truth_of(exact, exact, torch.float32)
    assert truth.faults({**exact, "grad b": exact["grad b"] + 1e-7}) == []
    assert len(truth.faults({**exact, "grad b": exact["grad b"] + 1e-3})) == 1


@pytest.mark.usefixtures("empty_is_nan")
def test_the_checker_sees_a_wrong_gradient_and_an_unwritten_element(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(grad, arguments):
        grads = reference.backward(grad, arguments)
        return (*grads[:3], grads[3] * 1.01)

    def unwritten(arguments):
        out = reference.forward(arguments)
        return torch.cat([out[..., :-1], torch.empty_like(out[..., -1:])], -1)

    tests = {"wrong": (reference.forward, wrong), "unwritten": (unwritten, reference.backward)}
    broken = [
        dispatch.Implementation(
            name, {"conv_path": SimpleNamespace(forward=forward, backward=backward, why_not=lambda arguments: None)}
        )
        for name, (forward, backward) in tests.items()
    ]
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [*dispatch.IMPLEMENTATIONS, *broken])
    with pytest.raises(AssertionError, match="grad kernels"):
        check(CASES[0], "wrong", torch.float32)
    with pytest.raises(AssertionError, match="output: inf"):
        check(CASES[0], "unwritten", torch.float32)
