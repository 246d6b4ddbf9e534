"""How a kernel is called: sizes travel as a row of numbers, and the kernel takes no row of another length."""

from __future__ import annotations

import pytest
import torch

from acmix.ops import dispatch
from acmix.testing.check import results

OPERATORS = sorted(dispatch.OPERATORS)


def usual_call(operator):
    """The operator's `cpu` module and the arguments of its first case."""
    parts, function = dispatch.OPERATORS[operator].parts, dispatch.OPERATORS[operator].function
    case = parts["cases"].CASES[0]
    tensors = {name: tensor.detach() for name, tensor in case.tensors().items()}
    return parts["cpu"], dispatch.arguments_of(function, **tensors, **case.settings)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_another_count_of_sizes_than_the_kernel_s_is_refused_with_both(operator, direction, monkeypatch):
    kernel, arguments = usual_call(operator)
    out = kernel.forward(arguments)
    sizes = kernel.shape_of(arguments)
    symbol = f"acmix_{operator}" + ("_backward" if direction == "backward" else "")
    for wrong in (sizes[:-1], (*sizes, 1), ()):
        monkeypatch.setattr(kernel, "shape_of", lambda arguments, wrong=wrong: wrong)
        expected = f"^{symbol} takes {len(sizes)} sizes, and {len(wrong)} were passed$"
        with pytest.raises(AssertionError, match=expected):
            kernel.forward(arguments) if direction == "forward" else kernel.backward(torch.ones_like(out), arguments)


def limit_of(operator, name):
    return getattr(dispatch.OPERATORS[operator].parts["spec"], name)


def at_the_limits():
    """Calls as large as the kernels' tables."""
    conv, window, local = (
        dispatch.OPERATORS[name].parts["cases"].Case for name in ("conv_path", "window_attention", "local_attention")
    )
    side = int(limit_of("conv_path", "MOST_TAPS") ** 0.5)
    pixels, longest = limit_of("window_attention", "MOST_WINDOW_PIXELS"), limit_of("local_attention", "MOST_SIDE")
    yield conv("most taps", size=(1, 9, 8), heads=1, conv_size=side)
    yield conv("most taps, stride 2", size=(1, 4, 9), heads=1, conv_size=side, stride=2)
    yield window("most pixels, one row", size=(1, 1, pixels + 5), heads=1, window=(1, pixels))
    yield window("most pixels, one column", size=(1, pixels, 1), heads=1, window=(pixels, 1), shift=(3, 0))
    yield local("longest side", map_size=(1, 3, 20), heads=1, size=(1, longest))
    yield local("longest side, upright", map_size=(1, 20, 3), heads=1, size=(longest, 3))


@pytest.mark.parametrize("case", list(at_the_limits()), ids=lambda case: case.name)
def test_the_tables_hold_what_the_limits_allow(case, empty_is_nan):
    expected = results(case, "reference", case.tensors())
    for name, value in results(case, "cpu", case.tensors()).items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
