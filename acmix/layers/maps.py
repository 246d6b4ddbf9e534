"""Maps as they come in and go out, and the places of their pixels; a sequence is a map of one row.

Shapes: B batch · H, W map · L length · C channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.errors import UsageError
from acmix.ops.leaving import compact, fresh, leaves_pytorch


def evenly_spaced(count: int, like: Tensor) -> Tensor:
    """`torch.linspace(-1, 1, count)` like a tensor; unlike it, an exported graph takes any count."""
    step = torch.arange(count, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return (2 * step / step[-1:].clamp(min=1) - 1).to(like.dtype)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last where the input lies so and not also the plain way, as after a convolution."""
    if not x.is_contiguous() and knows_formats() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) in that memory format; as it is where there are none, or where a graph left open would fix sizes."""
    if leaves_pytorch() or not knows_formats():
        return x
    return x.contiguous(memory_format=torch.channels_last)


def knows_formats() -> bool:
    """Whether a tensor has a memory format: `torch.vmap` knows none, alone or inside another transform."""
    return not torch._C._are_functorch_transforms_active()


def check_shape(x: Tensor, channels: int, sides: str) -> None:
    """Refuses an input that is not (B, channels, *sides)."""
    if x.dim() != 2 + len(sides) or x.shape[1] != channels:
        raise UsageError(f"the input has shape {tuple(x.shape)}; expected (B, {channels}, {', '.join(sides)})")


def sides_of(x: Tensor) -> tuple[int, int]:
    """(H, W) of a map (B, C, H, W), or (1, L) of a sequence (B, C, L)."""
    return (1, x.shape[2]) if x.dim() == 3 else (x.shape[2], x.shape[3])


def projected_pixels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution whose channels are adjacent, for any memory format: (B, I, …) and (O, I) -> (B, H·W, O)."""
    rows = x.flatten(2).transpose(1, 2)  # (B, H·W, I)
    # behind a product of a batch that lies otherwise, PyTorch adds the bias in a pass of its own
    if not leaves_pytorch() and rows.shape[0] == 1 and not rows.is_contiguous():
        return F.linear(rows[0], weight, bias)[None]
    return F.linear(fresh(rows), weight, bias)


def arranged_as(x: Tensor, out: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W) in the memory format of x; or (B, 1, L, C) -> (B, C, L), where x is a sequence."""
    if x.dim() == 3:
        return compact(out[:, 0].transpose(1, 2))
    if leaves_pytorch():
        return fresh(out.permute(0, 3, 1, 2))
    return out.permute(0, 3, 1, 2).contiguous(memory_format=memory_format_of(x))
