"""Every case of every operator, as tests iterate them."""

from __future__ import annotations

from acmix.ops import dispatch
from acmix.ops.cases import Case

OPERATORS = tuple(dispatch.OPERATORS)
CASES: tuple[Case, ...] = tuple(case for each in dispatch.OPERATORS.values() for case in each.parts["cases"].CASES)


def label(case: Case) -> str:
    """A test's name."""
    return f"{case.operator}: {case.name}"


def case_named(operator: str, name: str) -> Case:
    """One case of an operator's table."""
    return next(case for case in CASES if (case.operator, case.name) == (operator, name))


def first_of_each() -> list[Case]:
    """An ordinary case of each operator."""
    return [each.parts["cases"].CASES[0] for each in dispatch.OPERATORS.values()]


def refused_by(case: Case, implementation: str) -> str | None:
    """Why an implementation does not take a case in float32, or None where it does."""
    arguments = dispatch.arguments_of(case.operator, **case.tensors(), **case.settings)
    return dispatch.OPERATORS[case.operator].parts[implementation].why_not(arguments)
