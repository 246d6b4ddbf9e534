"""Whether anybody sees that an operator is called: then it goes through PyTorch's dispatcher, else past it.

The dispatcher, and what answers it in Python, costs as much as a small map does. Modes, transforms, traces, the
profiler and tensors of other kinds see operators there. `torch.profiler.ExecutionTraceObserver` would too, but nothing
tells that it is there: within `torch.profiler.profile` it sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# a subclass may have a `__torch_function__` that asks for the call
ORDINARY = (Tensor, nn.Parameter)
# what a schema's types are in Python
KINDS: dict[str, tuple[type, ...]] = {
    "Tensor": ORDINARY,
    "Tensor?": (*ORDINARY, type(None)),
    "SymInt": (int,),
    "float": (float,),
    "SymInt[]": (tuple,),
}
# of 64 bits
MOST = 2**63 - 1


def is_unseen(values: Iterable[Any]) -> bool:
    """Whether a call with these values would go straight to what computes it, or to its gradient's node.

    Args:
        values: of the call; what is no tensor is seen by nobody.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or torch.autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    ):
        return False
    for each in values:
        if isinstance(each, Tensor):
            if type(each) not in ORDINARY:
                return False
            keys = torch._C._dispatch_keys(each).raw_repr()
            if keys not in ordinary_keys("cpu") and not (each.is_cuda and keys in ordinary_keys("cuda")):
                return False
    return True


def are_ordinary(values: Iterable[Any], kinds: Iterable[tuple[type, ...]]) -> bool:
    """Whether a schema would take values as they are: it turns NumPy's numbers into Python's, and refuses others."""
    for each, kind in zip(values, kinds, strict=True):
        if type(each) not in kind or (type(each) is int and not -MOST <= each <= MOST):
            return False
    return True


@cache
def ordinary_keys(device: str) -> frozenset[int]:
    """What the dispatcher knows of a device's tensors that are no more than their numbers."""
    found = set()
    for mode in (False, True):
        with torch.inference_mode(mode):
            found.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)
