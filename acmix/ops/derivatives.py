"""Derivatives of operators: the kernels' gradient where one is asked for, and the definition's for all others.

A kernel knows its output and its first gradient. Forward mode, a gradient of a gradient and the transforms of
`torch.func` need more, so there the definition runs: PyTorch's own operators, which have every derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")


def autograd_kernel(
    operator: torch._ops.OpOverload, definition: Callable[..., Any], node: type[torch.autograd.Function] | None
) -> Callable[..., Any]:
    """What PyTorch calls in place of an operator where derivatives may be asked for.

    Args:
        operator: what this stands before.
        definition: computes the same of the same values in PyTorch's own operators.
        node: computes the operator and has its gradient; None where that too is the definition's.
    """

    def kernel(*values: Any) -> Any:
        if needs_definition(values):
            return definition(*values)
        if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in values):
            return definition(*values) if node is None else node.apply(*values)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*values)

    return kernel


def needs_definition(values: Sequence[Any]) -> bool:
    """Whether a derivative is being taken that no kernel has: by `torch.func`, or in forward mode."""
    # Forward mode outside of `torch.func` has tangents that lie in the tensors.
    return torch._C._are_functorch_transforms_active() or (forward_ad._current_level >= 0 and any_tangent(values))


def derivative_taken(values: Sequence[Any]) -> bool:
    """The same, told where a call is made: `torch.vmap` alone is no derivative, and takes it apart into plain calls."""
    levels = torch._C._functorch.get_interpreter_stack() or ()  # pyright: ignore[reportAttributeAccessIssue]
    derivatives = (TransformType.Grad, TransformType.Jvp)
    return any(each.key() in derivatives for each in levels) or (forward_ad._current_level >= 0 and any_tangent(values))


def any_tangent(values: Sequence[Any]) -> bool:
    """Whether one of the values is a dual number."""
    return any(isinstance(each, Tensor) and forward_ad.unpack_dual(each).tangent is not None for each in values)


def vmap_rule(operator: torch._ops.OpOverload, maps: Sequence[int] | None) -> Callable[..., Any]:
    """How `torch.vmap` computes an operator: all images in one call where only maps differ, else a call for each.

    Args:
        operator: it.
        maps: places of the arguments whose dimension 0 counts images, as in its only result; None where a result
            sums over images, so that those of one call cannot be told apart.
    """

    def rule(info: Any, in_dims: tuple[Any, ...], *values: Any) -> tuple[Any, Any]:
        count = info.batch_size
        # a list of numbers has a list of None
        batched = {place for place, dim in enumerate(in_dims) if isinstance(dim, int)}
        first = [each.movedim(in_dims[place], 0) if place in batched else each for place, each in enumerate(values)]
        if maps is not None and batched <= set(maps):
            for place in maps:
                if place >= len(first) or first[place] is None:
                    continue
                each = first[place] if place in batched else first[place].expand(count, *first[place].shape)
                first[place] = each.flatten(0, 1)
            found = operator(*first)
            return apart(found, count)
        calls = [
            operator(*(each[i] if place in batched else each for place, each in enumerate(first))) for i in range(count)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        results = tuple(torch.stack(each) for each in zip(*calls, strict=True))
        return results, (0,) * len(results)

    def apart(found: Any, count: int) -> tuple[Any, Any]:
        """Results that have their images side by side, and where the new dimension is."""
        if isinstance(found, Tensor):
            return found.unflatten(0, (count, found.shape[0] // count)), 0
        parts = tuple(apart(each, count)[0] for each in found)
        return parts, (0,) * len(parts)

    return rule


def remembered(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the tensors that a function makes of numbers, as `lru_cache` does, but none that belong to a transform.

    Args:
        most: calls whose result is kept.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        kept = lru_cache(maxsize=most)(make)

        @wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> R:
            # what a transform or a mode wraps is of no use after it; fake tensors are such
            if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
                return make(*args, **kwargs)
            # a tensor of inference mode could not be saved for a gradient later
            with torch.inference_mode(False):
                return kept(*args, **kwargs)

        return made

    return decorate
