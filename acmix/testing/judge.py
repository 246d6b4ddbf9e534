"""Right or wrong, before anyone asks how fast: results against float64, beside the error of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# how many times the reference's own error, in the same dtype, a candidate may make; the tests of kernels use the same
OUTPUT_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
# A peer is another formula for the same function. It is told from a different function, not graded.
PEER_SLACK = 10.0
# A gradient this far below the largest is zero but for rounding, as that of a bias before a softmax.
NEGLIGIBLE = 1e-9

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
        faults = []
        for name, error in errors(found, self.exact).items():
            bound = slack * self.bounds[name]
            if not error <= bound:
                faults.append(f"{name} is off by {error:.1e}; at most {bound:.1e} is right")
        return faults


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
        if ours is None or ours.shape != value.shape or not ours.isfinite().all():
            result[name] = float("inf")
            continue
        scale = peak(value)
        if is_gradient(name):
            scale = largest_number if value.numel() == 1 else scale
            scale = largest if scale < NEGLIGIBLE * largest else scale
        result[name] = peak(ours.double() - value) / max(scale, 1e-300)
    return result


def is_gradient(name: str) -> bool:
    """Whether a result is a gradient, by its name."""
    return name.startswith("grad ")


def peak(x: Tensor) -> float:
    """The largest absolute value; 0 of nothing."""
    return x.abs().max().item() if x.numel() else 0.0
