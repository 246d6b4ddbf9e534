"""Convolutions in 16 bits, for processors that PyTorch has no kernels of them for.

There a convolution in fp16, and without AVX-512 one in bf16, takes up to 900 times as long as in fp32. Here it is
computed in fp32 from the same numbers, and its result rounded, as kernels in 16 bits do that add in fp32.

Needs PyTorch alone: `acmix export` has this file's text run where acmix is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# in inference mode they come as they were called, else as the last
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether PyTorch has no kernels for convolutions of a number format on this processor."""
    kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype)
    if kind is None or device.type != "cpu":
        return False
    return not (torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")())


class InSingle(TorchDispatchMode):
    """Within the block, convolutions that would be slow are computed in fp32; not for training."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls an operator."""
        named = kwargs or {}
        if call.overloadpacket.__name__ in CONVOLUTIONS:
            images = args[0] if args else named["input"]
            if is_slow(images.dtype, images.device):
                single = [in_single(each) for each in args]
                return call(*single, **{name: in_single(each) for name, each in named.items()}).to(images.dtype)
        return call(*args, **named)


def in_single(argument: Any) -> Any:
    """A tensor in fp32; anything else as it is."""
    return argument.float() if isinstance(argument, Tensor) else argument
