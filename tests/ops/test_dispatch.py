"""Which implementation runs: forced, restored, explained."""

from types import SimpleNamespace

import pytest
import torch

from acmix import ops
from acmix.ops import dispatch
from acmix.testing.cases import CONV_CASES, WINDOW_CASES

CASES = pytest.mark.parametrize("case", [CONV_CASES[0], WINDOW_CASES[0]], ids=["conv", "window"])


@pytest.fixture
def recorded(monkeypatch):
    """A fastest implementation, `noting`, that computes what the reference does and notes what it was asked for."""
    asked = []

    def noting(operator):
        reference = operator.parts["reference"]

        def forward(arguments):
            asked.append(operator.name)
            return reference.forward(arguments)

        def backward(grad, arguments):
            asked.append(f"{operator.name}_backward")
            return reference.backward(grad, arguments)

        return SimpleNamespace(forward=forward, backward=backward, why_not=why_not)

    def why_not(arguments):
        return None if arguments[0].device.type == "cpu" else "knows the cpu only"

    ours = dispatch.Implementation("noting", {name: noting(each) for name, each in dispatch.OPERATORS.items()})
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", [ours, *dispatch.IMPLEMENTATIONS])
    return asked


@CASES
def test_the_first_implementation_that_can_is_taken_forward_and_backward(case, recorded):
    case.call(case.tensors()).sum().backward()
    name = type(case).__module__.split(".")[2]
    assert recorded == [name, f"{name}_backward"]


@CASES
def test_the_reference_can_be_forced_forward_and_backward(case, recorded):
    with ops.use("reference"):
        case.call(case.tensors()).sum().backward()
    assert recorded == []


@CASES
def test_force_reaches_a_gradient_asked_for_inside(case, recorded):
    out = case.call(case.tensors()).sum()
    recorded.clear()
    with ops.use("reference"):
        out.backward()
    assert recorded == []


def test_the_choice_is_restored_after_nesting_and_after_an_error(recorded):
    case = CONV_CASES[0]
    tensors = case.tensors()
    with ops.use("reference"):
        with ops.use("noting"):
            case.call(tensors)
        assert len(recorded) == 1
        case.call(tensors)
        assert len(recorded) == 1
    with pytest.raises(KeyError), ops.use("reference"):
        raise KeyError
    case.call(tensors)
    assert len(recorded) == 2


def test_an_unknown_name_lists_those_there_are():
    names = "'triton', 'cpu', 'reference'"
    with pytest.raises(ValueError, match=f"no implementation 'cuda'; expected one of .*{names}"), ops.use("cuda"):
        pass


def test_a_forced_implementation_that_cannot_run_this_case_says_why(recorded):
    arguments = dispatch.usual("conv_path", "cuda", torch.float32)
    message = "'noting' cannot run conv_path on cuda: knows the cpu only"
    with ops.use("noting"), pytest.raises(ValueError, match=message):
        dispatch.choose("conv_path", arguments)


def test_explain_has_a_line_for_every_operator_and_implementation():
    text = ops.explain("cpu", torch.float32)
    assert repr(text) == str(text)
    heading, *lines, hint = text.splitlines()
    assert heading.split()[:2] == ["operator", "implementation"]
    assert "on cpu, float32" in heading
    assert [tuple(line.split()[:2]) for line in lines] == [
        (operator, each.name) for operator in dispatch.OPERATORS for each in dispatch.IMPLEMENTATIONS
    ]
    assert "acmix.ops.use" in hint
    for operator in dispatch.OPERATORS:
        assert sum(line.startswith(operator) and line.endswith("  runs") for line in lines) == 1
    assert all(len(line.split()) > 2 for line in lines)


def test_explain_tells_the_reason_and_the_force(recorded):
    assert "knows the cpu only" in ops.explain("cuda")
    with ops.use("reference"):
        lines = ops.explain("cpu").splitlines()
    assert sum(line.split()[1:] == ["reference", "runs"] for line in lines) == len(dispatch.OPERATORS)
