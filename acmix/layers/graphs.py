"""What tools that draw a graph see of a module: torch.fx one node, torch.jit.script an error that says what to do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.fx import Proxy

from acmix.errors import UsageError


def whole(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes a module one node of a graph that torch.fx traces, as PyTorch's own layers are.

    What it computes depends on sizes, which a symbolic trace does not know.
    """

    @functools.wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        for each in (*args, *kwargs.values()):
            if isinstance(each, Proxy):
                tracer: Any = each.tracer
                return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        return forward(self, *args, **kwargs)

    return run


def refuse_script(module: nn.Module) -> NoReturn:
    """What torch.jit.script calls first, where it is a module's `__prepare_scriptable__`."""
    raise UsageError(
        f"{type(module).__name__} cannot be scripted, and PyTorch has deprecated torch.jit.script; "
        "use torch.jit.trace(model, example), torch.export.export or torch.compile instead"
    )
