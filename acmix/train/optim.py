"""What moves the weights: optimizer, learning rate as a function of the step, and the one path of precision."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from acmix.config import Config
from acmix.errors import UsageError
from acmix.train.device import half_precision

# torch's, which move all weights in one kernel, on a CPU as well
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def create_optimizer(model: nn.Module, config: Config, global_batch_size: int) -> torch.optim.Optimizer:
    """Builds timm's optimizer with the learning rate scaled to the batch.

    One-dimensional parameters and those of the model's `no_weight_decay()` are not decayed.

    Raises:
        UsageError: timm knows no optimizer of that name, or it cannot work here.
    """
    settings = config.optimizer
    known = [str(name) for name in list_optimizers()]
    if settings.name not in known:
        near = difflib.get_close_matches(settings.name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
        raise UsageError(f"optimizer.name={settings.name!r} is not one of timm's; {hint}")
    info = get_optimizer_info(settings.name)
    if info.second_order:
        raise UsageError(f"optimizer.name={settings.name!r} needs second derivatives; choose another")
    extra: dict[str, Any] = {}
    if info.has_eps:
        extra["eps"] = settings.eps
    # an optimizer that takes three betas keeps its own
    if info.has_betas and info.num_betas == 2:
        extra["betas"] = settings.betas
    # one pass over the weights; and with fp16 it asks the scaler on the GPU, where others wait for the answer
    if info.opt_class in FUSED:
        extra["fused"] = True
    try:
        return create_optimizer_v2(
            model,
            opt=settings.name,
            lr=settings.lr * lr_scale(config, global_batch_size),
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            layer_decay=settings.layer_decay,
            **extra,
        )
    except (ImportError, AssertionError, RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"optimizer.name={settings.name!r} cannot be used here: {said}; choose another") from error


def lr_scale(config: Config, global_batch_size: int) -> float:
    """By how much the batch stretches every learning rate."""
    base = config.optimizer.base_batch_size
    return 1.0 if base is None else global_batch_size / base


def odd_rates(config: Config) -> list[str]:
    """A line for each end of the schedule that lies above its peak, and for a warm-up that lasts to the end."""
    peak = config.optimizer.lr
    ends = {
        "warmup_lr": "warm-up lowers the learning rate from it",
        "min_lr": "the learning rate rises to it at the end",
    }
    values = {key: getattr(config.schedule, key) for key in ends}
    lines = [
        f"schedule.{key} {value:g} is above optimizer.lr {peak:g}: {ends[key]}"
        for key, value in values.items()
        if value > peak
    ]
    warmup, epochs = config.schedule.warmup_epochs, config.train.epochs
    if warmup >= epochs:
        lines.append(
            f"schedule.warmup_epochs {warmup:g} is not below train.epochs {epochs}: the learning rate only rises; "
            "set schedule.warmup_epochs lower"
        )
    return lines


class Schedule:
    """Cosine with warm-up: the learning rate of a step depends on nothing but the step.

    Args:
        optimizer: whose learning rates are set.
        config: its `schedule` and `train.epochs`.
        steps_per_epoch: optimizer steps.
        global_batch_size: images a step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int, global_batch_size: int
    ) -> None:
        scale = lr_scale(config, global_batch_size)
        total = config.train.epochs * steps_per_epoch
        self.optimizer = optimizer
        self.warmup_steps = round(min(config.schedule.warmup_epochs, config.train.epochs) * steps_per_epoch)
        self.cosine = CosineLRScheduler(
            optimizer,
            # timm complains about a single step, which begins at the peak anyway
            t_initial=max(total, 2),
            lr_min=config.schedule.min_lr * scale,
            warmup_t=self.warmup_steps,
            warmup_lr_init=config.schedule.warmup_lr * scale,
            cycle_limit=1,
            t_in_epochs=False,
        )

    def apply(self, step: int) -> float:
        """Sets the learning rates of a step, counted from 0, and returns the largest: that of the last layer."""
        self.cosine.step_update(step)
        return max(group["lr"] for group in self.optimizer.param_groups)


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number format of a run, and with it the order: scale, backward, unscale, clip, step.

    Args:
        name: "auto", "fp32", "bf16" or "fp16"; auto takes what suits the device, see `half_precision`.
        device: where the run computes.

    Raises:
        UsageError: fp16 on a CPU, bf16 where the device has none, or no such format.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = half_precision(device)
        if name not in PRECISIONS:
            raise UsageError(f"train.precision={name!r}; expected auto, {', '.join(PRECISIONS)}")
        if name == "fp16" and device.type == "cpu":
            raise UsageError("train.precision=fp16 needs a GPU; use fp32 or bf16 on a CPU")
        supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
        if name == "bf16" and device.type != "cpu" and supported is not None and not supported():
            raise UsageError("train.precision=bf16: this device has no bf16; use auto, fp16 or fp32")
        self.name, self.device = name, device
        self.dtype = PRECISIONS[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context a model runs in."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Adds a loss's gradients, scaled up in fp16 so that small ones are not lost."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], clip_grad: float | None) -> Tensor:
        """Clips the whole accumulated gradient, moves the weights, clears the gradients; returns the norm before."""
        self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if clip_grad is None else clip_grad)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm
