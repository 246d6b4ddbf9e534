"""Convolutions in 16 bits, for processors that PyTorch has no kernels of them for.

There a convolution in fp16, and without AVX-512 one in bf16, can take hundreds of times as long as in fp32.
Here it is computed in fp32 from the same numbers, and its result rounded, as kernels in 16 bits do that add in
fp32.

Needs PyTorch alone: `acmix export` has this file's text run where acmix is not.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# in inference mode they come as they were called, else as the last
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}


@cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Whether PyTorch has kernels for convolutions of a number format on this processor.

    Not asked when this is imported: oneDNN then reads its environment variables, which may still be set.
    """
    kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype)
    if kind is None:
        return True
    return torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()


def is_slow_call(call: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator is a convolution, all of one number format that this processor has no kernels for."""
    if call.overloadpacket.__name__ not in CONVOLUTIONS or "out" in kwargs:
        return False
    given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    formats = {each.dtype for each in given}
    return len(formats) == 1 and not has_kernels(*formats) and all(each.device.type == "cpu" for each in given)


def computed(call: Any, args: Any, kwargs: Any) -> Any:
    """An operator's result; of a convolution that would be slow, computed in fp32."""
    if not is_slow_call(call, args, kwargs):
        return call(*args, **kwargs)
    single = call(*map(in_single, args), **{name: in_single(each) for name, each in kwargs.items()})
    return single.to(next(each.dtype for each in (*args, *kwargs.values()) if isinstance(each, Tensor)))


class InSingle(TorchDispatchMode):
    """Within the block, convolutions that would be slow are computed in fp32; not for training."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls an operator."""
        return computed(call, args, kwargs or {})


def in_single(argument: Any) -> Any:
    """A tensor in fp32; anything else as it is."""
    return argument.float() if isinstance(argument, Tensor) else argument
