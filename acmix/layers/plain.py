"""Whether a module is wrapped or hooked: then it is called; else its weights are read, and its output reused."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import Proxy
from torch.nn.modules import module as torch_module

# tensors that hold their own numbers, and what tracers put in their place; DTensor and quantised tensors are neither
ORDINARY = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a product with a module's weight and bias is all that calling the module does.

    It is not if the module is wrapped: an adapter (LoRA), quantisation, pruning, a spectral norm or another
    parametrisation, a hook of the module's or of all modules, FSDP, a `forward` of the instance's own.

    Args:
        module: what stands where we made one of `kind`.
        kind: `nn.Linear`, `nn.Conv2d` or `nn.Conv1d`.
    """
    return not all_are_watched() and has_plain_weights(module, kind)


def has_plain_weights(module: nn.Module, kind: type[nn.Module]) -> bool:
    """`is_plain`, with or without global hooks on modules."""
    return "weight" in module._parameters and "bias" in module._parameters and is_own(module, kind)


def is_own(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its kind does, and carries no wrapper or hook."""
    of = type(module)
    # a subclass may compute the same: a tracer's stand-in for the module does
    if of is not kind and not (issubclass(of, kind) and of.forward is kind.forward and of.__call__ is kind.__call__):
        return False
    return is_untouched(module)


def is_untouched(module: nn.Module) -> bool:
    """Whether a module has no hooks, no parametrisations, no `forward` of the instance's own, no unusual parameters."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if "forward" in module.__dict__ or "parametrizations" in module._modules:
        return False
    # a loop, which costs a third of what a generator does
    for parameter in module._parameters.values():
        if parameter is not None and type(parameter) not in ORDINARY:
            return False
    return True


def all_are_watched() -> bool:
    """Whether there are hooks on all modules."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def may_overwrite(*givers: nn.Module) -> bool:
    """Whether what modules just gave can be changed in place: no hook on them can have kept it."""
    return not all_are_watched() and all(map(is_untouched, givers))


def activated(act: nn.Module, x: Tensor, *givers: nn.Module) -> Tensor:
    """act(x), where x may be overwritten if no hook watches the modules that gave it, and act is a ReLU of ours."""
    # a graph that torch.fx traces shows modules by their names
    if not isinstance(x, Proxy) and is_own(act, nn.ReLU) and may_overwrite(*givers):
        return F.relu(x, inplace=True)
    return act(x)
