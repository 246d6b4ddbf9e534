"""What a program from a file may ask for: sizes of 64 bits, and no more memory than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# of a size, as PyTorch stores it
BITS = 63
# of the machine's memory, what the results of a program may take together
SHARE = 0.5


def of_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic that takes numbers alone and stays within 64 bits, so that it is done at once.

    Raises:
        ValueError: something else is given or found.
    """

    def bounded(*given: Any) -> Any:
        if not all(isinstance(each, (int, float)) for each in given):
            raise ValueError("arithmetic on what is no number")
        name = getattr(function, "__name__", "")
        if name == "lshift" and given[1] > BITS:
            raise ValueError("a size of more than 64 bits")
        if name == "pow" and abs(given[1]) * math.log2(max(abs(given[0]), 1)) > BITS:
            raise ValueError("a size of more than 64 bits")
        found = function(*given)
        if isinstance(found, int) and found.bit_length() > BITS:
            raise ValueError("a size of more than 64 bits")
        return found

    return bounded


def memory() -> float:
    """The machine's memory in bytes; infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes that tensors hold, each storage once."""
    storages = [each.untyped_storage() for each in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def check_memory(call: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any], held: Iterable[Tensor]) -> bool:
    """Refuses a call whose result would not fit into memory, by its shapes, before it is made.

    Args:
        call: one of PyTorch's operators.
        args, kwargs: what it gets.
        held: the results of earlier calls that are still needed.

    Returns:
        Whether the shapes of the result follow from the shapes of the arguments. Where they depend on values, there
        is no more than what the arguments hold, as for nonzero.

    Raises:
        ValueError: it would not fit.
    """
    args, kwargs = bare(args), bare(kwargs)
    if any(each.name == "device" for each in call._schema.arguments):
        # else what makes a tensor of no other would really make it
        kwargs["device"] = torch.device("meta")
    before = {each.untyped_storage()._cdata for each in tensors_in([args, kwargs])}
    try:
        found = call(*args, **kwargs)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, AssertionError):
        # of values, or one that the call itself will tell of
        return False
    needed = bytes_of(each for each in tensors_in(found) if each.untyped_storage()._cdata not in before)
    needed += bytes_of(held)
    if needed > SHARE * memory():
        raise ValueError(f"it needs {needed / 2**30:,.0f} GiB, more than half of this machine's memory")
    return True


def bare(argument: Any) -> Any:
    """An argument with tensors that have shapes and no memory."""
    if isinstance(argument, Tensor):
        return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="meta")
    if isinstance(argument, (list, tuple)):
        return [bare(each) for each in argument]
    if isinstance(argument, dict):
        return {name: bare(each) for name, each in argument.items()}
    return torch.device("meta") if isinstance(argument, torch.device) else argument


def tensors_in(argument: Any) -> list[Tensor]:
    """The tensors of an argument or a result."""
    if isinstance(argument, Tensor):
        return [argument]
    parts = list(argument.values()) if isinstance(argument, dict) else argument
    return [each for part in parts for each in tensors_in(part)] if isinstance(parts, (list, tuple)) else []
