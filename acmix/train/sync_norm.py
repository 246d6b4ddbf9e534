"""Batch norms that take their statistics over the batches of all processes, on GPUs and on a CPU.

Shapes: b batch of this process · C channels · H, W map · n = b·H·W values a channel here · W processes
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from acmix.errors import UsageError


def synchronised(model: nn.Module, world_size: int, *, heads_alone: bool = True) -> nn.Module:
    """Lets batch norms take their statistics over all processes; parameters, statistics and keys stay.

    Call it on every process, when the model stands on its device and before it is given to DistributedDataParallel.

    Args:
        model: changed in place.
        world_size: how many processes train together; with 1 nothing changes.
        heads_alone: leave the norms of a detector's or segmenter's backbone, `model.features`, as they are.

    Returns:
        The model, or what takes its place where it is a batch norm itself.

    Raises:
        UsageError: a norm of another kind that counts its own batch, which cannot be changed.
    """
    if world_size == 1:
        return model
    return replaced(model, getattr(model, "features", None) if heads_alone else None)


def is_synchronised(norm: nn.Module) -> bool:
    """Whether a batch norm counts the images of all processes."""
    return isinstance(norm, (nn.SyncBatchNorm, SynchronisedBatchNorm2d))


def replaced(module: nn.Module, kept: Any, name: str = "") -> nn.Module:
    """What takes a module's place; the module `kept` stays as it is."""
    if module is kept or is_synchronised(module):
        return module
    if type(module) is nn.BatchNorm2d:
        return over_all_processes(module)
    if isinstance(module, _BatchNorm):
        raise UsageError(
            f"{name} is a {type(module).__name__}, whose statistics cannot be taken over all processes; expected "
            "BatchNorm2d: train in one process, or leave the norms of the backbone as they are"
        )
    for key, child in module.named_children():
        if (new := replaced(child, kept, f"{name}.{key}" if name else key)) is not child:
            setattr(module, key, new)
    return module


def over_all_processes(norm: nn.BatchNorm2d) -> nn.Module:
    """A norm with the same tensors: torch's own, which knows no CPU, or there ours."""
    where = next((each for each in (norm.weight, norm.running_mean) if each is not None), torch.empty(0)).device
    if where.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    new = SynchronisedBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    for name, parameter in norm._parameters.items():
        new._parameters[name] = parameter
    for name, buffer in norm._buffers.items():
        new._buffers[name] = buffer
    return new.train(norm.training)


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance in training are those of all processes' batches, on a CPU.

    Each process may bring another number of images, or none. In evaluation it is batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(b, C, H, W) -> (b, C, H, W).

        Raises:
            UsageError: in training, one value a channel in all processes together.
        """
        self._check_input_dim(input)
        counts_batch = self.training or self.running_mean is None
        if counts_batch and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # a compiled graph ends before it
            return torch.compiler.disable(over_all)(self, input)  # type: ignore[return-value]
        return super().forward(input)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards those of a batch, as batch norm does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def over_all(norm: SynchronisedBatchNorm2d, x: Tensor) -> Tensor:
    """What a norm gives in training among several processes."""
    count, mean, squares = joined(moments(x.detach()))
    if count == 1:
        raise UsageError(
            "all processes together leave a batch norm one value a channel; give them 2 images or more a step"
        )
    if norm.training and norm.running_mean is not None and count:
        norm.remember(mean, squares / (count - 1))
    # where no process has a value, a gradient is still waited for
    scale = torch.rsqrt(squares / max(count, 1) + norm.eps)  # (C,)
    return Normalised.apply(x, norm.weight, norm.bias, mean, scale, max(count, 1))  # type: ignore[return-value]


def moments(x: Tensor) -> Tensor:
    """n, the mean and the sum of squared distances from it, (1 + 2·C,) in float64, of a map (b, C, H, W)."""
    count, channels = x.numel() // x.shape[1], x.shape[1]
    found = x.new_zeros(1 + 2 * channels, dtype=torch.float64)
    if count:
        variance, mean = torch.var_mean(wide(x), (0, 2, 3), correction=0)  # (C,) each
        found[0], found[1 : 1 + channels], found[1 + channels :] = count, mean, variance.double() * count
    return found


def joined(ours: Tensor) -> tuple[int, Tensor, Tensor]:
    """What `moments` would give for the maps of all processes: n, the mean (C,) and the squared distances (C,).

    The same on every process, to the bit. Source: Chan, Golub and LeVeque, Updating formulae (1979).
    """
    everyones = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, ours)
    stacked = torch.stack(everyones)  # (W, 1 + 2·C)
    counts, (means, squares) = stacked[:, :1], stacked[:, 1:].chunk(2, 1)  # (W, 1), (W, C) each
    count = counts.sum()
    mean = (counts * means).sum(0) / count.clamp(min=1)
    return int(count), mean, (squares + counts * (means - mean).square()).sum(0)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Normalised(torch.autograd.Function):
    """(x − mean) · scale · weight + bias, where mean and scale follow from the x of all processes.

    dx = weight · scale · (dy − Σ dy / n − x̂ · Σ dy·x̂ / n)     sums over all processes;   x̂ = (x − mean) · scale
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, scale: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.count = count
        out = unit(x, mean, scale)  # (b, C, H, W)
        if weight is not None:
            out = out * channelwise(weight, out)
        if bias is not None:
            out = out + channelwise(bias, out)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, scale = ctx.saved_tensors
        gradient = wide(gradients[0])
        normal = unit(x, mean, scale)
        ours = torch.stack([gradient.sum((0, 2, 3)), (gradient * normal).sum((0, 2, 3))])  # (2, C)
        of_bias, of_weight = (None, None) if weight is None else ours.to(weight.dtype, copy=True)
        dist.all_reduce(ours)
        shift, slope = ours / ctx.count
        factor = scale if weight is None else scale * weight
        gradient = gradient - channelwise(shift, gradient) - normal * channelwise(slope, gradient)
        gradient = (gradient * channelwise(factor, gradient)).to(x.dtype)
        return gradient, of_weight, of_bias, None, None, None


def unit(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(x − mean) · scale in float32 at least, (b, C, H, W)."""
    x = wide(x)
    return (x - channelwise(mean, x)) * channelwise(scale, x)


def channelwise(numbers: Tensor, like: Tensor) -> Tensor:
    """A number for each channel (C,), in the dtype of a map (b, C, H, W) and ready to be spread over it."""
    return numbers.to(like.dtype).view(1, -1, 1, 1)
