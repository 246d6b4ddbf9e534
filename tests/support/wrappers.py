"""What people put on modules: adapters, pruning, norms of weights, hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


class LowRank(nn.Module):
    """An adapter as LoRA's: base(x) + up(down(x)), with two channels between; it has no weight of its own.

    Args:
        base: a linear layer or a 1×1 convolution.
        up: what the second factor starts as, everywhere.
    """

    def __init__(self, base: nn.Linear | nn.Conv1d | nn.Conv2d, up: float = 0.5) -> None:
        super().__init__()
        self.base = base
        if isinstance(base, nn.Linear):
            self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        else:
            kind: Any = type(base)
            self.down = kind(base.in_channels, 2, 1, stride=base.stride, bias=False)
            self.up = kind(2, base.out_channels, 1, bias=False)
        nn.init.constant_(self.up.weight, up)
        self.to(base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    """A parametrisation: twice the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def put(model: nn.Module, name: str, wrap: Callable[[Any], nn.Module]) -> nn.Module:
    """Puts what `wrap` makes of the module of that name in its place, and gives it back."""
    parent, _, child = name.rpartition(".")
    wrapped = wrap(model.get_submodule(name))
    setattr(model.get_submodule(parent), child, wrapped)
    return wrapped


def with_own_forward(module: Any) -> nn.Module:
    """As accelerate does: a `forward` of the instance."""
    plain = module.forward
    module.forward = lambda x: 2 * plain(x)
    return module


def with_hook(module: nn.Module) -> nn.Module:
    """A hook that changes what the module gives."""
    module.register_forward_hook(lambda module, inputs, output: 2 * output)  # type: ignore[operator]
    return module


def with_pre_hook(module: nn.Module) -> nn.Module:
    """A hook that changes what the module gets."""
    module.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return module


def with_backward_hook(module: nn.Module) -> nn.Module:
    """A hook that changes the gradient."""
    module.register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))
    return module


# each computes something other than the module alone
WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "adapter": LowRank,
    "pruned": lambda module: prune.l1_unstructured(module, "weight", amount=0.5),
    "pruned bias": lambda module: prune.l1_unstructured(module, "bias", amount=0.5),
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": torch.nn.utils.spectral_norm,
    "weight norm": lambda module: scaled(parametrizations.weight_norm(module)),
    "parametrised": lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
    "own forward": with_own_forward,
    "hook": with_hook,
    "pre-hook": with_pre_hook,
}


def scaled(module: Any) -> nn.Module:
    """A weight norm at first changes nothing; here the lengths are doubled."""
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(2)
    return module
