"""Weights, gradients and moments that the processes share out among them, by PyTorch's FSDP2 (`train.fsdp`).

A block's weights are gathered from all processes where it computes, and given up after it. What a checkpoint holds is
whole, as of any other run: one that was written with `train.fsdp` goes on without it, and the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from acmix.config import Config
from acmix.errors import UsageError
from acmix.train.distributed import World


def check_fsdp(config: Config, precision: str) -> None:
    """Refuses settings that need every weight whole on every process.

    Args:
        config: the run.
        precision: the number format that `train.precision` stands for here.

    Raises:
        UsageError: names the setting.
    """
    settings = config.train
    if not settings.fsdp:
        return
    half = "train.precision=fp16" if settings.precision == precision else "train.precision=auto, here fp16,"
    for is_set, key, why in (
        (precision == "fp16", half, "the scaler would see a part of the gradients alone"),
        (
            bool(settings.channels_last),
            "train.channels_last=true",
            "PyTorch shares out weights that lie in the usual order alone",
        ),
        (settings.reduction == "exact", "train.reduction=exact", "no process has every gradient"),
        (settings.static_graph, "train.static_graph=true", "it is DistributedDataParallel's"),
        (settings.gradient_compression is not None, "train.gradient_compression", "it is DistributedDataParallel's"),
    ):
        if is_set:
            raise UsageError(f"{key} does not go with train.fsdp=true: {why}; leave one of them out")


def sharded(model: nn.Module, world: World) -> nn.Module:
    """Shares a model's weights out among the processes, a block at a time; in place, every process calls it.

    Args:
        model: on its device. A block is what drops a path, as residual blocks of timm and of ours do.
        world: this process's place; alone, the model stays as it is.
    """
    if world.size == 1:
        return model
    # of logits that are cut to an image's size: losses change nothing in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of a model, which it calls one after another; none lies in another."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        is_block = any(name.startswith("drop_path") for name, _ in module.named_children())
        if is_block and module not in inside and any(True for _ in module.parameters()):
            found.append(module)
            inside |= {*module.modules()}
    return found


def is_sharded(model: nn.Module) -> bool:
    """Whether the processes share its weights out."""
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Keeps weights that are shared out whole on every process in the block; every process enters and leaves it.

    For processes that call the model another number of times each, which would wait for each other's weights.
    """
    parts = [each for each in model.modules() if isinstance(each, FSDPModule)]
    for each in parts:
        each.set_reshard_after_forward(False, recurse=False)
        each.unshard()
    try:
        yield
    finally:
        for each in parts:
            each.reshard()
            # as `fully_shard` has it: the whole model's own are needed again at once, by the backward pass
            each.set_reshard_after_forward(each is not model, recurse=False)


def whole(value: Any, *, is_kept: bool = True) -> Any:
    """Nested dictionaries, lists and tuples with whole tensors; every process calls it where there are shared ones.

    A tensor that was shared out comes to the CPU before the next is gathered: all of them together may not fit on a
    GPU, which is why they are shared out.

    Args:
        value: the same on every process, but for its parts of tensors.
        is_kept: whether this process wants the tensors; it takes part in gathering either way.
    """
    if isinstance(value, DTensor):
        tensor = value.full_tensor()
        return tensor.cpu() if is_kept else None
    if isinstance(value, dict):
        return {key: whole(each, is_kept=is_kept) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(each, is_kept=is_kept) for each in value)
    return value


def like(value: Any, pattern: Any) -> Any:
    """A whole tensor, shared out as another one of its shape is; anything else as it is.

    Args:
        value: the same on every process.
        pattern: a parameter, or its place in a state dict.
    """
    if not isinstance(pattern, DTensor) or not isinstance(value, Tensor) or value.shape != pattern.shape:
        return value
    mesh: DeviceMesh = pattern.device_mesh
    # every process has read the same file: nothing needs to be sent
    return distribute_tensor(value.to(mesh.device_type), mesh, pattern.placements, src_data_rank=None)


def shared_state(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state dict as a shared model takes it."""
    ours = model.state_dict()
    return {name: like(value, ours.get(name)) for name, value in state.items()}


def shared_moments(parameters: Iterable[Tensor], saved: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state dict as the optimizer of shared parameters takes it.

    Args:
        parameters: of the optimizer, in its order.
        saved: whose state is numbered in that order.
    """
    every = list(parameters)
    state = {
        number: {name: like(value, every[number]) for name, value in entries.items()}
        for number, entries in saved["state"].items()
    }
    return {**saved, "state": state}


@torch.no_grad()
def share_buffers(model: nn.Module, world: World) -> None:
    """Gives every process the buffers of the first, as batch norms' statistics; every process calls it."""
    if world.size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_dtype.values():
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.broadcast(flat, src=0)
        for buffer, new in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(new.view_as(buffer))
