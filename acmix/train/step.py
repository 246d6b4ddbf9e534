"""One optimizer step: forward and backward over its micro-batches on all processes, then one move of the weights.

Process r of W takes in its pass a the micro-batch of the number m = a W + r, see `acmix.data.loader`; with A passes a
step has A W of them. `train.reduction` says how their gradients become one:

    mean     each process adds up its own A, DistributedDataParallel takes the mean over the processes
    exact    ((g_0 + g_1) + g_2 + ...) / (A W), on every process, in the order of m; what a micro-batch draws follows
             from (seed, step, m), and batch norms take in its statistics in the same order

So with exact the same global batch gives the same bits on any number of processes, where each computes with the same
number of threads: a sum that several threads share is rounded otherwise.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from acmix.config import Config, Train
from acmix.errors import UsageError
from acmix.models.checkpointing import counted_once
from acmix.train.distributed import World
from acmix.train.fsdp import share_buffers
from acmix.train.state import State
from acmix.train.sync_norm import is_synchronised

# how gradients are rounded on their way, by `train.gradient_compression`
HOOKS = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
MIB = 2**20


class Step:
    """Takes steps with a run's model.

    Args:
        config: the run.
        state: its model, optimizer and average.
        world: this process's place.

    Raises:
        UsageError: `train.reduction=exact` with batch norms over all processes; a static graph with accumulation.
    """

    def __init__(self, config: Config, state: State, world: World) -> None:
        self.config, self.state, self.world = config, state, world
        settings, model = config.train, state.model
        check_exact(settings)
        self.module = compiled(model, config.task.name) if settings.compile else model
        # whose blocks the backward pass computes again; torch.compile plans that itself
        again = settings.gradient_checkpointing and not settings.compile
        self.recomputed = [each for each in model.modules() if isinstance(each, _BatchNorm)] if again else []
        self.exact = ExactSum(model, world, settings.bucket_mib) if settings.reduction == "exact" else None
        self.fsdp = model if isinstance(model, FSDPModule) else None
        if world.size > 1 and self.exact is None and self.fsdp is None:
            if settings.static_graph and settings.accumulation > 1:
                raise UsageError(
                    f"train.static_graph=true does not go with train.accumulation={settings.accumulation}: where "
                    "gradients wait for the last pass, passes are not alike; leave one of them out"
                )
            # of a 1x1 convolution's gradient, whose strides over one pixel mean nothing
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.module = DistributedDataParallel(
                self.module,
                device_ids=None if world.device.type == "cpu" else [world.device],
                # PyTorch keeps its small first bucket, from which on gradients travel, where none is named alone
                bucket_cap_mb=None if usual_buckets(settings) else settings.bucket_mib,
                static_graph=settings.static_graph,
                gradient_as_bucket_view=True,
            )
            if settings.gradient_compression is not None:
                self.module.register_comm_hook(None, HOOKS[settings.gradient_compression])

    def take(self, micro_batches: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Forward and backward over every micro-batch, then one move of the weights; nothing computed is read.

        Returns:
            The loss as "loss", and its parts where it has several; the gradient norm.
        """
        state, seed = self.state, self.config.train.seed
        losses = {"loss": torch.zeros((), device=self.world.device)}
        if self.exact is None:
            seed_everything(seed, state.step, self.world.rank)
        if self.fsdp is not None:
            # DistributedDataParallel does so itself
            share_buffers(state.model, self.world)
        for i, cpu_batch in enumerate(micro_batches):
            batch = cpu_batch.to(self.world.device, state.memory_format)
            # gradients travel once a step, with the last micro-batch
            if isinstance(self.module, DistributedDataParallel):
                self.module.require_backward_grad_sync = i == len(micro_batches) - 1
            if self.fsdp is not None:
                self.fsdp.set_requires_gradient_sync(i == len(micro_batches) - 1)
            if self.exact is not None:
                seed_everything(seed, state.step, i * self.world.size + self.world.rank)
            with state.precision.autocast():
                parts = state.task.loss(self.module, batch)
                loss = sum_of(parts)
                loss = loss if self.exact is not None else loss / len(micro_batches)
            with counted_once(self.recomputed):
                state.precision.backward(loss)
            if self.exact is not None:
                self.exact.add()
                loss = loss.detach() / len(micro_batches)
            losses["loss"] += loss.detach()
            for name, part in parts.items() if len(parts) > 1 else ():
                losses[name] = losses.get(name, 0.0) + part.detach().float() / len(micro_batches)
        if self.exact is not None:
            self.exact.finish(len(micro_batches) * self.world.size)
        norm = state.precision.step(state.optimizer, state.model.parameters(), self.config.train.clip_grad)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if state.average is not None:
            state.average.update(state.model, step=state.step)
        return losses, norm


def check_exact(settings: Train) -> None:
    """Refuses settings of the messages that `train.reduction=exact` does without.

    Raises:
        UsageError: names the setting.
    """
    if settings.reduction != "exact":
        return
    for is_set, key, why in (
        (settings.static_graph, "train.static_graph=true", "it is DistributedDataParallel's"),
        (
            settings.gradient_compression is not None,
            f"train.gradient_compression={settings.gradient_compression}",
            "each process would round other sums",
        ),
    ):
        if is_set:
            raise UsageError(f"{key} does not go with train.reduction=exact: {why}; leave one of them out")


def usual_buckets(settings: Train) -> bool:
    """Whether gradients travel in PyTorch's own buckets: one of 1 MiB, then 25 MiB each."""
    return settings.bucket_mib == Train.model_fields["bucket_mib"].default


class ExactSum:
    """Adds up gradients and takes in batch norms' statistics in the order of the micro-batches over all processes.

    Args:
        model: whose gradients; its batch norms hand over their statistics from here on.
        world: this process's place.
        bucket_mib: how much travels at a time.

    Raises:
        UsageError: batch norms over all processes, whose batch depends on how many there are.
    """

    def __init__(self, model: nn.Module, world: World, bucket_mib: float) -> None:
        if any(is_synchronised(each) for each in model.modules()):
            raise UsageError(
                "train.reduction=exact does not go with batch norms over all processes, which see another batch on "
                "another number of them; add train.sync_batchnorm=false, or leave train.reduction out"
            )
        self.world = world
        self.parameters = [each for each in model.parameters() if each.requires_grad]
        self.buckets = in_buckets(self.parameters, bucket_mib * MIB)
        self.sums: list[Tensor] = [torch.zeros_like(each) for each in self.parameters]
        # which have a gradient at all; the others' stays None
        self.met = torch.zeros(len(self.parameters), dtype=torch.int32)
        self.norms = [Statistics(each) for each in model.modules() if isinstance(each, _BatchNorm)]

    @torch.no_grad()
    def add(self) -> None:
        """Takes this pass's gradients of all processes; every process calls it after its backward pass."""
        for bucket in self.buckets:
            flat = torch.cat([flat_gradient(self.parameters[number]) for number in bucket])
            for theirs in self.of_all(flat):
                start = 0
                for number in bucket:
                    size = self.parameters[number].numel()
                    self.sums[number] += theirs[start : start + size].view_as(self.sums[number])
                    start += size
        for number, parameter in enumerate(self.parameters):
            self.met[number] |= int(parameter.grad is not None)
            parameter.grad = None
        for norm in self.norms:
            norm.take(self.of_all)

    @torch.no_grad()
    def finish(self, count: int) -> None:
        """Gives every parameter the mean gradient of a step; every process calls it.

        Args:
            count: micro-batches of the step over all processes.
        """
        if self.world.size > 1:
            dist.all_reduce(self.met, dist.ReduceOp.MAX, group=self.world.control)
        for parameter, total, met in zip(self.parameters, self.sums, self.met.tolist(), strict=True):
            # a copy, as the sum goes on being used
            parameter.grad = total / count if met else None
            total.zero_()
        self.met.zero_()

    def of_all(self, ours: Tensor) -> list[Tensor]:
        """What each process has, in their order."""
        if self.world.size == 1:
            return [ours]
        theirs = [torch.empty_like(ours) for _ in range(self.world.size)]
        dist.all_gather(theirs, ours)
        return theirs


class Statistics:
    """A batch norm that keeps the statistics of one micro-batch, to be taken into the running ones in order.

    With a momentum of 1 its buffers hold what the batch alone gave.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.momentum = norm, norm.momentum
        self.has_any = norm.track_running_stats and norm.running_mean is not None
        self.running = [each.clone() for each in self.buffers()]
        self.seen = int(norm.num_batches_tracked) if norm.num_batches_tracked is not None else 0
        if self.has_any:
            norm.momentum = 1.0

    def buffers(self) -> list[Tensor]:
        """Mean and variance, each (C,)."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        return [] if not self.has_any or mean is None or variance is None else [mean, variance]

    def take(self, of_all: Any) -> None:
        """Takes in the statistics of a pass on all processes."""
        if not self.has_any or not self.norm.training:
            return
        buffers = self.buffers()
        for theirs in of_all(torch.cat(buffers)):
            self.seen += 1
            momentum = 1.0 / self.seen if self.momentum is None else self.momentum
            for running, new in zip(self.running, theirs.chunk(2), strict=True):
                running.mul_(1 - momentum).add_(new, alpha=momentum)
        for buffer, running in zip(buffers, self.running, strict=True):
            buffer.copy_(running)
        if self.norm.num_batches_tracked is not None:
            self.norm.num_batches_tracked.fill_(self.seen)


def flat_gradient(parameter: Tensor) -> Tensor:
    """A parameter's gradient as (n,); zeros where it has none."""
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()


def in_buckets(parameters: list[nn.Parameter], most: float) -> list[list[int]]:
    """Numbers of parameters of one format, as many in a bucket as fit; a larger one alone.

    Args:
        parameters: in the model's order.
        most: bytes of a bucket.
    """
    buckets: list[list[int]] = []
    held = 0
    for number, each in enumerate(parameters):
        size = each.numel() * each.element_size()
        fits = buckets and held + size <= most and parameters[buckets[-1][0]].dtype == each.dtype
        if not fits:
            buckets.append([])
            held = 0
        buckets[-1].append(number)
        held += size
    return buckets


def compiled(model: nn.Module, task: str) -> nn.Module:
    """The model with what can be compiled of it compiled; of a detector in place, for images of any size."""
    if task != "detect":
        return torch.compile(model)  # type: ignore[return-value]
    model.compile(dynamic=True)
    return model


def sum_of(parts: dict[str, Tensor]) -> Tensor:
    """The sum of a loss's parts; the only part as it is."""
    first, *others = parts.values()
    for each in others:
        first = first + each
    return first


def seed_everything(*parts: int) -> None:
    """Seeds Python's, numpy's and torch's generators with one number made of several."""
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
