"""The one judge of "as exact as the reference": an output and every gradient, against float64.

An implementation may make at most twice the error that the reference makes in the same dtype, in gradients three times.
Tests and benchmarks judge by this alone:

    check(case, "triton", torch.float16, device="cuda")       a case of an operator; fails where something is wrong
    truth_of(exact, reference, dtype).faults(found)           any results by name, those of a model too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acmix import ops
from acmix.ops.cases import Case

# how many times the reference's own error, in the same dtype, is right
OUTPUT_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
# A peer is another formula for the same function. It is told from a different function, not graded.
PEER_SLACK = 10.0
# A gradient this far below the largest is zero but for rounding, as that of a bias before a softmax.
NEGLIGIBLE = 1e-9
# a tensor of no more numbers than this tells little about rounding by one draw
FEW = 4

Results = Mapping[str, Tensor]


@dataclass(frozen=True)
class Truth:
    """What is right, and how far it may be missed.

    Args:
        exact: tensors in float64 by name; "output" and "grad …".
        bounds: the largest relative error of each.
    """

    exact: Results
    bounds: Mapping[str, float]

    def faults(self, found: Results, slack: float = 1.0) -> list[str]:
        """One line for each tensor that is wrong.

        Args:
            found: the same names.
            slack: what bounds are multiplied by.
        """
        return misses(errors(found, self.exact), {name: slack * bound for name, bound in self.bounds.items()})


def misses(found: Mapping[str, float], bounds: Mapping[str, float]) -> list[str]:
    """A line for each error that is above its bound, or no number."""
    return [
        f"{name} is off by {error:.1e}; at most {bounds[name]:.1e} is right"
        for name, error in found.items()
        if not error <= bounds[name]
    ]


def truth_of(exact: Results, reference: Results, dtype: torch.dtype, *, together: bool = False) -> Truth:
    """Bounds out of the reference's own errors: 2 times them for outputs, 3 times for gradients.

    Args:
        exact: the reference's results in float64.
        reference: its results in `dtype`.
        dtype: whose rounding is never a fault.
        together: take the largest of the reference's errors for all gradients. Through a deep model rounding spreads,
            and that it misses one gradient by little is luck.

    Returns:
        What to judge candidates by.
    """
    own = errors(reference, exact)
    outputs = max(error for name, error in own.items() if not is_gradient(name))
    gradients = max((error for name, error in own.items() if is_gradient(name)), default=0.0)
    # the reference can be exact by luck; one rounding of the largest value is never a fault
    least = torch.finfo(dtype).eps
    bounds = {}
    for name, error in own.items():
        shared = (gradients if is_gradient(name) else outputs) if together else error
        bounds[name] = (GRADIENT_FACTOR if is_gradient(name) else OUTPUT_FACTOR) * max(shared, least)
    return Truth(exact, bounds)


def errors(found: Results, exact: Results) -> dict[str, float]:
    """max|found − exact| / max|exact| of each tensor; infinite where something is missing or not finite.

    A gradient of a single number, such as that of a rate, is set beside the largest of its kind: a sum of so much may
    come near zero by luck.
    """
    gradients = {name: peak(value) for name, value in exact.items() if is_gradient(name)}
    largest = max(gradients.values(), default=0.0)
    largest_number = max((size for name, size in gradients.items() if exact[name].numel() == 1), default=0.0)
    result = {}
    for name, value in exact.items():
        ours = found.get(name)
        if ours is None or ours.shape != value.shape:
            result[name] = float("inf")
            continue
        scale = peak(value)
        if is_gradient(name):
            scale = largest_number if value.numel() == 1 else scale
            scale = largest if scale < NEGLIGIBLE * largest else scale
        result[name] = relative_error(ours, value, scale)
    return result


def relative_error(found: Tensor, exact: Tensor, scale: float | None = None) -> float:
    """max|found − exact| / max|exact|, or over a scale; infinite where something is not finite."""
    assert found.shape == exact.shape, f"{tuple(found.shape)} is not {tuple(exact.shape)}"
    if not found.isfinite().all():
        return float("inf")
    return peak(found.double() - exact) / max(peak(exact) if scale is None else scale, 1e-300)


def is_gradient(name: str) -> bool:
    """Whether a result is a gradient, by its name."""
    return name.startswith("grad ")


def peak(x: Tensor) -> float:
    """The largest absolute value; 0 of nothing."""
    return x.abs().max().item() if x.numel() else 0.0


# --- one case of an operator ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    """One tensor's largest error over the largest value, the implementation's and the reference's, and its size."""

    tensor: str
    ours: float
    reference: float
    bound: float
    numbers: int

    @property
    def is_wrong(self) -> bool:
        """Whether the bound is missed."""
        return not self.ours <= self.bound

    def __str__(self) -> str:
        return f"{self.tensor}: {self.ours:.2e}, reference {self.reference:.2e}, bound {self.bound:.2e}"


def results(call: Callable[[dict[str, Tensor]], Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of every tensor, for an upstream gradient that is the same in every dtype."""
    out = call(tensors)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, list(tensors.values()), upstream)
    for (name, tensor), grad in zip(tensors.items(), grads, strict=True):
        assert grad.dtype == tensor.dtype, f"gradient of {name} is {grad.dtype}, not {tensor.dtype}"
        assert grad.shape == tensor.shape, f"gradient of {name} is {tuple(grad.shape)}, not {tuple(tensor.shape)}"
    return {"output": out.detach(), **{f"grad {name}": grad for name, grad in zip(tensors, grads, strict=True)}}


def results_of(case: Case, implementation: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A case's results by one implementation."""
    with ops.use(implementation):
        return results(case.call, tensors)


def check(case: Case, implementation: str, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Error]:
    """Fails where the output is more than twice, or a gradient more than three times as wrong as the reference's."""
    found = errors_of(case, implementation, dtype, device, seed)
    wrong = [str(error) for error in found if error.is_wrong]
    assert not wrong, f"{case.name}, {implementation}, {dtype}: {'; '.join(wrong)}"
    return found


def errors_of(case: Case, implementation: str, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Error]:
    """Measures an implementation and the reference against the reference in float64, on inputs rounded to `dtype`.

    A gradient of few numbers can be exact by luck, and whose luck it was differs from one CPU to the next. Where such a
    one misses its bound, both sides are measured on two more draws, and the largest errors of all three compared.
    """
    found = errors_of_draw(case, implementation, dtype, device, seed)
    if not any(error.numbers <= FEW and error.is_wrong for error in found):
        return found
    draws = [found, *(errors_of_draw(case, implementation, dtype, device, seed + more) for more in (1, 2))]
    return [largest_of(same) if same[0].numbers <= FEW else same[0] for same in zip(*draws, strict=True)]


def errors_of_draw(case: Case, implementation: str, dtype: torch.dtype, device: str, seed: int) -> list[Error]:
    """What `errors_of` measures, on one draw of the inputs."""
    tensors = case.tensors(dtype, device, seed)
    exact = results_of(case, "reference", {name: doubled(tensor) for name, tensor in tensors.items()})
    reference = results_of(case, "reference", tensors)
    ours, theirs = errors(results_of(case, implementation, tensors), exact), errors(reference, exact)
    bounds = truth_of(exact, reference, dtype).bounds
    return [Error(name, ours[name], theirs[name], bounds[name], value.numel()) for name, value in exact.items()]


def largest_of(draws: Sequence[Error]) -> Error:
    """One tensor's errors over several draws."""
    return Error(
        draws[0].tensor,
        max(error.ours for error in draws),
        max(error.reference for error in draws),
        max(error.bound for error in draws),
        draws[0].numbers,
    )


def doubled(tensor: Tensor) -> Tensor:
    """The same numbers in float64, of which gradients can be asked."""
    return tensor.detach().double().requires_grad_()
