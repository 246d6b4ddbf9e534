"""What moves the weights: optimizer, learning rate as a function of the step, and the one path of precision."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from acmix.config import Config
from acmix.errors import UsageError
from acmix.layers import rate_names
from acmix.near import did_you_mean
from acmix.train.device import half_precision
from acmix.train.length import length_in_epochs, total_steps

# torch's, which move all weights in one kernel, on a CPU as well
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
# layers that normalise
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
# schedules that end at `schedule.min_lr`
TO_AN_END = ("cosine", "poly")
# what holds where a schedule's own settings are not set: a fall to a tenth, after each third; a straight line
DECAY_FACTOR, DECAY_PARTS, POWER = 0.1, 3, 1.0


def create_optimizer(model: nn.Module, config: Config, global_batch_size: int) -> torch.optim.Optimizer:
    """Builds timm's optimizer with the learning rate scaled to the batch.

    Not decayed are, by `optimizer.no_decay`: one-dimensional parameters and those of the model's `no_weight_decay()`;
    the same but for biases outside of norms; or the rates of the two paths alone.

    Raises:
        UsageError: timm knows no optimizer of that name, or it cannot work here.
    """
    settings = config.optimizer
    known = [str(name) for name in list_optimizers()]
    if settings.name not in known:
        hint = did_you_mean(settings.name, known, otherwise=f"it knows {', '.join(known)}")
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
    if info.opt_class in FUSED and not (config.train.fsdp and info.opt_class is torch.optim.SGD):
        # PyTorch has no fused SGD for weights that processes share out
        extra["fused"] = True
    if config.train.fsdp and info.opt_class not in FUSED:
        raise UsageError(
            f"optimizer.name={settings.name!r} does not go with train.fsdp=true: its steps have not been tried on "
            "shared weights; expected adamw, adam or sgd"
        )
    try:
        return create_optimizer_v2(
            with_decay_as_set(model, config),
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


def with_decay_as_set(model: nn.Module, config: Config) -> Any:
    """The model, whose one-dimensional parameters timm leaves undecayed; or its parameters in groups of another rule.

    Raises:
        UsageError: `optimizer.layer_decay` needs timm's rule.
    """
    settings = config.optimizer
    if settings.no_decay == "biases_and_norms":
        return model
    if settings.layer_decay is not None:
        raise UsageError(
            f"optimizer.no_decay={settings.no_decay} does not go with optimizer.layer_decay; leave one of them out"
        )
    own: Any = model
    free = set(own.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    if settings.no_decay == "nothing":
        free = rate_names(model)
    else:
        of_norms = {
            f"{place}.{name}" if place else name
            for place, module in model.named_modules()
            if isinstance(module, NORMS)
            for name, _ in module.named_parameters(recurse=False)
        }
        free |= of_norms
    kept, decayed = (
        [each for name, each in model.named_parameters() if each.requires_grad and (name in free) == is_free]
        for is_free in (True, False)
    )
    groups = [{"params": kept, "weight_decay": 0.0}, {"params": decayed, "weight_decay": settings.weight_decay}]
    return [group for group in groups if group["params"]]


def lr_scale(config: Config, global_batch_size: int) -> float:
    """By how much the batch stretches every learning rate."""
    base = config.optimizer.base_batch_size
    return 1.0 if base is None else global_batch_size / base


def warmup_steps(config: Config, steps_per_epoch: int) -> tuple[int, int]:
    """The steps of warm-up that a configuration asks for, and those it gets: at most `schedule.warmup_share` of a run.

    Args:
        config: its `schedule`, and `train.epochs` or `train.steps`.
        steps_per_epoch: optimizer steps.
    """
    settings, epochs = config.schedule, length_in_epochs(config, steps_per_epoch)
    longest = settings.warmup_share * epochs
    if settings.warmup_steps is not None:
        return settings.warmup_steps, min(settings.warmup_steps, round(longest * steps_per_epoch))
    # no longer than the run even where it is not shortened: such a number may have no product
    asked = min(settings.warmup_epochs, epochs)
    return round(asked * steps_per_epoch), round(min(asked, longest) * steps_per_epoch)


def check_rates(config: Config) -> None:
    """Refuses a schedule whose ends are above its peak.

    Raises:
        UsageError: names the setting, and what to do.
    """
    peak, settings = config.optimizer.lr, config.schedule
    ends = {}
    if settings.warmup_steps != 0 and (settings.warmup_steps or settings.warmup_epochs) and settings.warmup_share:
        ends["warmup_lr"] = "warm-up would lower the learning rate"
    if settings.name in TO_AN_END:
        ends["min_lr"] = "the learning rate would rise to it at the end"
    for key, effect in ends.items():
        if (value := getattr(settings, key)) > peak:
            raise UsageError(
                f"schedule.{key}={value:g} is above optimizer.lr={peak:g}: {effect}; set schedule.{key} to "
                f"{peak / 100:g}, or to 0"
            )


def odd_rates(config: Config, steps_per_epoch: int) -> list[str]:
    """A line for each part of a schedule that is not what one expects.

    These are: a warm-up that is shortened or lasts to the end, a fall that is never reached.
    """
    settings, epochs = config.schedule, length_in_epochs(config, steps_per_epoch)
    length = "train.epochs" if config.train.steps is None else "the run's length in epochs"
    lines = odd_warmup(config, steps_per_epoch)
    beyond = {f"schedule.milestones {each:g}": each for each in settings.milestones or ()}
    beyond |= {f"schedule.decay_epochs {each:g}": each for each in [settings.decay_epochs] if each is not None}
    lines += [
        f"{what} is not below {length} {epochs:g}: the learning rate does not fall then"
        for what, each in beyond.items()
        if each >= epochs
    ]
    return lines


def odd_warmup(config: Config, steps_per_epoch: int) -> list[str]:
    """A line where a warm-up is shortened, or lasts as long as the run."""
    settings, epochs = config.schedule, length_in_epochs(config, steps_per_epoch)
    total = total_steps(config, steps_per_epoch)
    in_steps = settings.warmup_steps is not None
    asked, given = warmup_steps(config, steps_per_epoch)
    if given < asked:
        long = f"{settings.warmup_steps} steps" if in_steps else f"{settings.warmup_epochs:g} epochs"
        short = f"{given} of {total}" if in_steps else f"{settings.warmup_share * epochs:.3g} of {epochs:g}"
        return [f"warm-up {long}, shortened to {short} (schedule.warmup_share {settings.warmup_share:g})"]
    if given >= total:
        key, length = ("warmup_steps", f"{total} steps") if in_steps else ("warmup_epochs", f"{epochs:g} epochs")
        return [
            f"schedule.{key} {getattr(settings, key):g} is not below the {length} of the run: the learning rate only "
            f"rises; set schedule.{key} lower"
        ]
    return []


class Schedule:
    """Warm-up and one of timm's schedules: the learning rate of a step depends on nothing but the step.

    Args:
        optimizer: whose learning rates are set.
        config: its `schedule`, and `train.epochs` or `train.steps`.
        steps_per_epoch: optimizer steps.
        global_batch_size: images a step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int, global_batch_size: int
    ) -> None:
        settings, epochs = config.schedule, length_in_epochs(config, steps_per_epoch)
        scale = lr_scale(config, global_batch_size)
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps(config, steps_per_epoch)[1]
        common: dict[str, Any] = dict(
            optimizer=optimizer,
            warmup_t=self.warmup_steps,
            warmup_lr_init=settings.warmup_lr * scale,
            # milestones and falls are counted from the first step
            warmup_prefix=False,
            t_in_epochs=False,
        )
        # timm complains about a single step, which begins at the peak anyway
        to_the_end: dict[str, Any] = dict(
            t_initial=max(total_steps(config, steps_per_epoch), 2), lr_min=settings.min_lr * scale, cycle_limit=1
        )
        factor = DECAY_FACTOR if settings.decay_factor is None else settings.decay_factor
        self.timms: Scheduler
        if settings.name == "cosine":
            self.timms = CosineLRScheduler(**common, **to_the_end)
        elif settings.name == "poly":
            self.timms = PolyLRScheduler(**common, **to_the_end, power=settings.power or POWER)
        elif settings.name == "multistep":
            # timm's milestones lie a step early
            steps = [round(min(each, epochs) * steps_per_epoch) + 1 for each in settings.milestones or ()]
            self.timms = MultiStepLRScheduler(**common, decay_t=steps, decay_rate=factor)
        else:
            distance = (settings.decay_epochs or epochs / DECAY_PARTS) * steps_per_epoch
            self.timms = StepLRScheduler(
                **common, decay_t=distance, decay_rate=factor if settings.name == "step" else 1.0
            )

    def apply(self, step: int) -> float:
        """Sets the learning rates of a step, counted from 0, and returns the largest: that of the last layer."""
        self.timms.step_update(step)
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
