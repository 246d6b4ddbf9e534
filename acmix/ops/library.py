"""An operator as PyTorch sees it: schema, shape function, gradient and multiply-adds, all made from its `spec`.

What computes it is chosen when it runs, below this layer, so a compiled or exported graph holds one node for each.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# an argument's annotation, as the schema writes it
TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "SymInt", float: "float", tuple[int, int]: "SymInt[]"}


def register(
    name: str, spec: ModuleType, forward: Callable[..., Tensor], backward: Callable[..., tuple[Tensor | None, ...]]
) -> None:
    """Defines `torch.ops.acmix.<name>` and `<name>_backward`.

    Args:
        name: the operator's.
        spec: its folder's module of that name.
        forward: computes the output of `spec.Arguments`.
        backward: computes the gradients of all tensors, in order, of the output's gradient and `spec.Arguments`.
    """
    hints = get_type_hints(spec.Arguments)
    fields = [TYPES[hint] for hint in hints.values()]
    schema = ", ".join(f"{written} {field}" for field, written in zip(hints, fields, strict=True))
    tensors = [i for i, written in enumerate(fields) if written.startswith("Tensor")]
    gradients = ", ".join(["Tensor"] * len(tensors))

    def arguments_of(values: tuple[Any, ...]) -> Any:
        """The values that PyTorch hands over; its lists are our pairs."""
        return spec.Arguments._make(tuple(value) if isinstance(value, list) else value for value in values)

    def run(*values: Any) -> Tensor:
        return forward(arguments_of(values))

    def run_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        found = backward(grad, arguments_of(values))
        # a schema knows no missing results
        return tuple(values[0].new_empty(0) if each is None else each for each in found)

    def fake(*values: Any) -> Tensor:
        return spec.output(arguments_of(values))

    def fake_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        like = [values[i] for i in tensors]
        return tuple(values[0].new_empty(0) if each is None else each.new_empty(each.shape) for each in like)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(inputs[i] for i in tensors))
        ctx.settings = [value for i, value in enumerate(inputs) if i not in tensors]

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, settings = iter(ctx.saved_tensors), iter(ctx.settings)
        values = [next(saved) if i in tensors else next(settings) for i in range(len(fields))]
        found = iter(differentiated(grad, *values))
        grads = [next(found) if i in tensors else None for i in range(len(fields))]
        return tuple(None if value is None else each for value, each in zip(values, grads, strict=True))

    operator = torch.library.custom_op(f"acmix::{name}", run, mutates_args=(), schema=f"({schema}) -> Tensor")
    differentiated = torch.library.custom_op(
        f"acmix::{name}_backward",
        run_backward,
        mutates_args=(),
        schema=f"(Tensor grad, {schema}) -> ({gradients})",
    )
    operator.register_fake(fake)
    differentiated.register_fake(fake_backward)
    operator.register_autograd(differentiate, setup_context=save)

    # torch's counter speaks of floating point operations: two for each multiply-add
    @register_flop_formula(getattr(torch.ops.acmix, name), get_raw=True)
    def _(*values: Any, out_val: Tensor, **_: Any) -> int:
        return 2 * spec.multiply_adds(arguments_of(values), out_val)

    @register_flop_formula(getattr(torch.ops.acmix, f"{name}_backward"), get_raw=True)
    def _(grad: Tensor, *values: Any, **_: Any) -> int:
        return 2 * spec.backward_multiply_adds(arguments_of(values), grad)
