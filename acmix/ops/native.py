"""What the operators' `cpu` modules share: how a C++ kernel is called, and what all of them take.

Maps are float32 or bfloat16, parameters float32 in the kernels whatever they are outside; sums are float32. `build`
compiles and loads the kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from acmix.ops import build

POINTER = ctypes.c_void_p
# arguments that lie nowhere
NUMBERS = (int, float, tuple, list, type(None))


def why_not(arguments: Any) -> str | None:
    """The reason why an operator's arguments are out of every CPU kernel's reach, or None."""
    data: Tensor = arguments[0]
    for name, each in zip(arguments._fields, arguments, strict=True):
        # every call asks, and to look for an attribute that is missing takes its time
        device = None if type(each) in NUMBERS else getattr(each, "device", None)
        # a kernel would read an address of a GPU; NumPy's numbers have a device that is a word
        if isinstance(device, torch.device) and device.type != "cpu":
            return f"runs on a CPU only, and {'the data' if each is data else name} is on {device.type}"
    if data.dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, and the data is {str(data.dtype).removeprefix('torch.')}"
    return None


def adjacent(data: Tensor) -> Tensor:
    """Data whose last dimension lies number by number, as lanes are loaded; a copy only where it does not."""
    return data if data.stride(-1) == 1 or data.shape[-1] == 1 else data.contiguous()


def parameter(weight: Tensor) -> Tensor:
    """A parameter, or a map for a kernel that knows float32 alone, in float32 and row by row."""
    return weight.to(torch.float32).contiguous()


def optional(weight: Tensor | None) -> Tensor | None:
    """The same of a parameter that may be missing."""
    return None if weight is None else parameter(weight)


def attention(name: str, arguments: Any, out: Tensor, sizes_of: Callable[[Any], Sequence[int]]) -> Tensor:
    """Calls an attention's kernel, which reads qkv and a parameter that may be missing, and returns what it wrote."""
    arguments = arguments._replace(qkv=adjacent(arguments.qkv))
    if out.numel():
        call(name, (arguments[0], optional(arguments[1]), out), sizes_of(arguments), arguments.scale)
    return out


def attention_backward(
    name: str, grad: Tensor, arguments: Any, sizes_of: Callable[[Any], Sequence[int]]
) -> tuple[Tensor, Tensor | None]:
    """Calls the kernel of an attention's gradients: those of qkv and of the parameter (None where there is none)."""
    arguments = arguments._replace(qkv=adjacent(arguments.qkv))
    qkv, weight = arguments[:2]
    wide = optional(weight)
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    grad_weight = None if wide is None else torch.zeros_like(wide)
    if grad.numel():
        call(name, (grad.contiguous(), qkv, wide, grad_qkv, grad_weight), sizes_of(arguments), arguments.scale)
    return grad_qkv, None if grad_weight is None else grad_weight.to(weight.dtype)


def call(name: str, tensors: Sequence[Tensor | None], sizes: Sequence[int], *numbers: float) -> None:
    """Calls a kernel: 1 for bfloat16, the tensors' addresses, the sizes and their count, numbers, threads."""
    is_bfloat16 = next(each.dtype for each in tensors if each is not None) == torch.bfloat16
    expected = getattr(build.library(), name)(
        ctypes.c_int(is_bfloat16),
        *[POINTER(None if each is None else each.data_ptr()) for each in tensors],
        (ctypes.c_int64 * len(sizes))(*sizes),
        ctypes.c_int64(len(sizes)),
        *map(ctypes.c_float, numbers),
        ctypes.c_int(torch.get_num_threads()),
    )
    if expected:
        raise AssertionError(f"{name} takes {expected} sizes, and {len(sizes)} were passed")
