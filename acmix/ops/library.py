"""An operator as PyTorch sees it: schema, shape function, gradient and multiply-adds, all made from its `spec`.

What computes it is chosen when it runs, below this layer, so a compiled or exported graph holds one node for each.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from acmix.ops.derivatives import autograd_kernel, vmap_rule
from acmix.ops.unseen import KINDS, is_unseen

# an argument's annotation, as the schema writes it
TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "SymInt", float: "float", tuple[int, int]: "SymInt[]"}


# keeps the operators alive
LIBRARY = torch.library.Library("acmix", "FRAGMENT")


class Shaped(NamedTuple):
    """Shape and dtype of a tensor that was added, and so of its gradient."""

    shape: torch.Size
    dtype: torch.dtype


def register(
    name: str,
    spec: ModuleType,
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor | None, ...]],
    define: Callable[..., Any],
) -> type[torch.autograd.Function]:
    """Defines `torch.ops.acmix.<name>` and `<name>_backward`, and returns the node of the operator's gradient.

    Args:
        name: the operator's.
        spec: its folder's module of that name.
        forward: computes the output of `spec.Arguments`.
        backward: computes the gradients of all tensors but `spec.ADDED`, in order, of the output's gradient and
            `spec.Arguments`; with `spec.ONTO` also of a tensor that the first gradient is added to.
        define: computes "forward" or "backward" of the same in PyTorch's own operators, which have all derivatives.
    """
    hints = get_type_hints(spec.Arguments)
    fields = [TYPES[hint] for hint in hints.values()]
    # arguments with a default came later than the first graphs that hold the operator
    defaults = {field: f"={value}" for field, value in spec.Arguments._field_defaults.items()}
    schema = ", ".join(
        f"{written} {field}{defaults.get(field, '')}" for field, written in zip(hints, fields, strict=True)
    )
    added = [i for i, field in enumerate(hints) if field in getattr(spec, "ADDED", ())]
    tensors = [i for i, written in enumerate(fields) if written.startswith("Tensor") and i not in added]
    gradients = ", ".join(["Tensor"] * len(tensors))
    maps = [i for i, field in enumerate(hints) if field in spec.MAPS]

    def arguments_of(values: tuple[Any, ...]) -> Any:
        """The values as arguments: PyTorch leaves out last ones that have their default; its lists are our pairs."""
        return spec.Arguments(*(tuple(value) if isinstance(value, list) else value for value in values))

    def complete(found: tuple[Tensor | None, ...], like: Tensor) -> tuple[Tensor, ...]:
        """Gradients without a None; a schema knows no missing results."""
        return tuple(like.new_empty(0) if each is None else each for each in found)

    def run(*values: Any) -> Tensor:
        return forward(arguments_of(values))

    def run_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        return complete(backward(grad, arguments_of(values)), values[0])

    def defined(*values: Any) -> Tensor:
        return define("forward", arguments_of(values))

    def defined_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        return complete(define("backward", arguments_of(values), grad), values[0])

    def fake(*values: Any) -> Tensor:
        return spec.output(arguments_of(values))

    def fake_backward(grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        like = [values[i] for i in tensors]
        return tuple(values[0].new_empty(0) if each is None else each.new_empty(each.shape) for each in like)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, settings = iter(ctx.saved_tensors), iter(ctx.settings)
        values = [next(saved) if i in tensors else next(settings) for i in range(len(fields))]
        below = not torch.is_grad_enabled() and is_unseen((grad, *values))
        found = iter((run_backward if below else gradient)(grad, *values))
        grads = [next(found) if i in tensors else None for i in range(len(fields))]
        grads = [None if value is None else each for value, each in zip(values, grads, strict=True)]
        for i, like in ctx.added.items():
            if ctx.needs_input_grad[i]:
                grads[i] = grad.sum_to_size(like.shape).to(like.dtype)
        return tuple(grads[: ctx.given])

    def record(ctx: Any, *given: Any) -> Tensor:
        values, ctx.given = arguments_of(given), len(given)
        ctx.save_for_backward(*(values[i] for i in tensors))
        ctx.settings = [None if i in added else value for i, value in enumerate(values) if i not in tensors]
        ctx.added = {i: Shaped(values[i].shape, values[i].dtype) for i in added if values[i] is not None}
        if is_unseen(values):
            out = run(*values)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                out = operator(*values)
        # the definition's may be a view of what nobody else holds, which PyTorch would not let anyone change in place
        return out.clone() if out._is_view() else out

    def define_operator(full_name: str, signature: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
        LIBRARY.define(full_name + signature, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(full_name, torch._disable_dynamo(compute), "CompositeExplicitAutograd")
        torch.library.register_fake(f"acmix::{full_name}", fake, lib=LIBRARY)
        return getattr(torch.ops.acmix, full_name).default

    def run_backward_onto(onto: Tensor, grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        return complete(backward(grad, arguments_of(values), onto), values[0])[1:]

    def fake_backward_onto(onto: Tensor, grad: Tensor, *values: Any) -> tuple[Tensor, ...]:
        return fake_backward(grad, *values)[1:]

    def cost_backward(grad: Tensor, *values: Any, **_: Any) -> int:
        return spec.backward_multiply_adds(arguments_of(values), grad)

    operator = define_operator(name, f"({schema}) -> Tensor", run, fake)
    count(name, lambda *values, out_val: spec.multiply_adds(arguments_of(values), out_val))
    gradient = define_operator(
        f"{name}_backward", f"(Tensor grad, {schema}) -> ({gradients})", run_backward, fake_backward
    )
    count(f"{name}_backward", cost_backward)
    if getattr(spec, "ONTO", False):
        others = ", ".join(["Tensor"] * (len(tensors) - 1))
        signature = f"(Tensor(a!) onto, Tensor grad, {schema}) -> ({others})"
        define_operator(f"{name}_backward_onto_", signature, run_backward_onto, fake_backward_onto)
        count(f"{name}_backward_onto_", lambda onto, grad, *values, **_: cost_backward(grad, *values))
    methods: dict[str, Any] = {"forward": staticmethod(record), "backward": staticmethod(differentiate)}
    # of its values, for calls that go past the schema
    methods["kinds"] = [KINDS[written] for written in fields]
    node = type(f"{name}_node", (torch.autograd.Function,), methods)
    LIBRARY.impl(name, autograd_kernel(operator, defined, node), "Autograd")
    LIBRARY.impl(f"{name}_backward", autograd_kernel(gradient, defined_backward, None), "Autograd")
    torch.library.register_vmap(operator, vmap_rule(operator, maps), lib=LIBRARY)
    # a gradient of what all images share is a sum over them
    apart = [0, *(i + 1 for i in maps)] if maps == tensors else None
    torch.library.register_vmap(gradient, vmap_rule(gradient, apart), lib=LIBRARY)
    return node


def count(name: str, multiply_adds: Callable[..., int]) -> None:
    """Tells torch's counter what an operator costs; it speaks of floating point operations: two a multiply-add."""

    @register_flop_formula(getattr(torch.ops.acmix, name), get_raw=True)
    def _(*values: Any, **named: Any) -> int:
        return 2 * multiply_adds(*values, **named)
