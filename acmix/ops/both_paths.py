"""An attention and a convolution path of the same q, k and v, with one gradient of them.

Apart, each writes a gradient of q, k and v, and a third pass adds the two. Here the path adds its own to the
attention's where it makes it.

Shapes: see `acmix.ops.window_attention`, `acmix.ops.local_attention` and `acmix.ops.conv_path`
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.ops.conv_path.spec import Arguments
from acmix.ops.derivatives import needs_definition
from acmix.ops.dispatch import OPERATORS, backward, run
from acmix.ops.leaving import leaves_pytorch
from acmix.ops.unseen import is_unseen


def both_paths(attention: str, attend: Any, path: Arguments) -> tuple[Tensor, Tensor]:
    """The outputs of an attention and of the path.

    Args:
        attention: the operator's name, "window_attention" or "local_attention".
        attend: its `Arguments`: qkv (B, H, W, 3, N, D), a parameter or None, and what is no tensor.
        path: its arguments, with pieces that are qkv's: (B, H, W, 3·N, D).
    """
    values = (*attend[:2], *path)
    if torch.is_grad_enabled() and attend.qkv.requires_grad and not is_transformed(values):
        settings = Settings(attention, attend[2:], path[4:7])
        tensors = (*attend[:2], *path[1:4], path.plus, path.plus_bias)
        return BothPaths.apply(settings, *tensors)  # type: ignore[return-value]
    return run(attention, attend), run("conv_path", path)


def is_transformed(values: tuple[Any, ...]) -> bool:
    """Whether somebody asks for more than an output and its gradient, or draws a graph, in which the two stay apart."""
    return torch.compiler.is_compiling() or leaves_pytorch() or needs_definition(values)


class Settings(NamedTuple):
    """What is no tensor: the attention's name, its settings, those of the path."""

    attention: str
    attend: tuple[Any, ...]
    path: tuple[int, int, tuple[int, int]]

    def arguments(self, qkv: Tensor, weight: Tensor | None) -> Any:
        """The attention's."""
        return OPERATORS[self.attention].parts["spec"].Arguments(qkv, weight, *self.attend)

    def path_arguments(
        self, qkv: Tensor, fc: Tensor, bias: Tensor | None, kernels: Tensor, *added: Tensor | None
    ) -> Arguments:
        """The path's; `added` are plus and plus_bias."""
        return Arguments(qkv.flatten(3, 4), fc, bias, kernels, *self.path, *added)


class BothPaths(torch.autograd.Function):
    """Both operators, and one gradient of what both read."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, qkv: Tensor, weight: Tensor | None, *path: Any) -> Any:
        """qkv and the attention's parameter; the path's fc_weight, fc_bias, kernels, plus and plus_bias."""
        *parameters, plus, plus_bias = path
        ctx.settings = settings
        ctx.added = [None if each is None else (each.shape, each.dtype) for each in (plus, plus_bias)]
        ctx.save_for_backward(qkv, weight, *parameters)
        arguments = settings.path_arguments(qkv, *path)
        return run(settings.attention, settings.arguments(qkv, weight)), run("conv_path", arguments)

    @staticmethod
    def backward(ctx: Any, of_attention: Tensor, of_path: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of all tensors."""
        settings: Settings = ctx.settings
        qkv, weight, *parameters = ctx.saved_tensors
        attend, path = settings.arguments(qkv, weight), settings.path_arguments(qkv, *parameters)
        if not torch.is_grad_enabled() and is_unseen((of_attention, of_path, qkv, weight, *parameters)):
            grad_qkv, grad_weight = backward(settings.attention, of_attention, attend)
            assert grad_qkv is not None
            _, *grads = backward("conv_path", of_path, path, grad_qkv.flatten(3, 4))
        else:
            grad_qkv, grad_weight = operator(f"{settings.attention}_backward")(of_attention, *attend)
            if torch.is_grad_enabled() or is_batched(of_path) or is_batched(of_attention):
                grad_pieces, *grads = operator("conv_path_backward")(of_path, *path)
                grad_qkv = grad_qkv + grad_pieces.view(grad_qkv.shape)
            else:
                grads = operator("conv_path_backward_onto_")(grad_qkv.flatten(3, 4), of_path, *path)
        grads = [None if each is None else grad for each, grad in zip(parameters, grads, strict=True)]
        added: list[Tensor | None] = []
        for like, asked in zip(ctx.added, ctx.needs_input_grad[-2:], strict=True):
            added.append(of_path.sum_to_size(like[0]).to(like[1]) if like and asked else None)
        return None, grad_qkv, None if weight is None else grad_weight, *grads, *added


def is_batched(grad: Tensor) -> bool:
    """Whether a gradient stands for many, as `is_grads_batched=True` asks for."""
    # the older of PyTorch's two ways to batch has a name in the keys only when they are written
    return "Batched" in repr(torch._C._dispatch_keys(grad))


def operator(name: str) -> Any:
    """One of our operators, as PyTorch knows it."""
    return getattr(torch.ops.acmix, name)
