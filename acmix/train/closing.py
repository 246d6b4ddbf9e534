"""What came of a run: its summary, and why it ended before its last epoch."""

from __future__ import annotations

from typing import Any

from acmix.config import Config
from acmix.errors import UsageError
from acmix.tasks.evaluation import LABELS
from acmix.train.device import device_name
from acmix.train.files import versions
from acmix.train.length import epochs_begun
from acmix.train.opening import counted
from acmix.train.state import State


def summed_up(config: Config, state: State) -> dict[str, Any]:
    """The run in numbers; metrics are those of best.pt, images a second those of all its steps.

    `best_metric` names the metric that chose best.pt, and `ended` the setting that ended the run: "epochs", "steps", or
    "patience" where it stopped early.
    """
    metric, task = state.task.metric, config.task
    return dict(
        task=task.name,
        **({} if task.head is None else {"head": task.head}),
        model=config.model.name,
        best_metric=metric,
        **{name: state.best.get(name) for name in state.task.metrics},
        best_epoch=state.best.get("epoch"),
        **{f"last_{metric}": state.metrics.get(metric)},
        images_per_second=state.meter.whole_run(state.global_batch_size),
        epochs=state.epochs_ended,
        ended=state.ended,
        steps=state.step,
        parameters=state.parameters,
        device=device_name(state.world.device),
        processes=state.world.size,
        precision=state.precision.name,
        unreadable=state.unreadable.names,
    )


def ending(config: Config, state: State) -> str:
    """Why a run is over before its last epoch, to follow a sentence; "" where it is not."""
    if state.ended != "patience":
        return ""
    best, epochs = state.best["epoch"], epochs_begun(config, state.steps_per_epoch)
    return (
        f": ended early, after epoch {state.epochs_ended} of {epochs}, with no better {LABELS[state.task.metric]} than "
        f"that of epoch {best} for {counted(state.epochs_ended - best, 'epoch')} (train.patience "
        f"{config.train.patience})"
    )


def diverged(config: Config, state: State, what: str, step: int) -> UsageError:
    """What ends a run that has diverged with a step, `what` being no number."""
    there, saved = versions(state.last), state.saved_at
    if saved is not None and saved[0] >= step:
        # the weights of that step compute no loss
        there = there[1:]
    none = "nothing was saved yet" if saved is None else "no checkpoint is from before it"
    kept = f"{there[0]} is from before it" if there else none
    warmup = "epochs" if config.schedule.warmup_steps is None else "steps"
    more = [f"more schedule.warmup_{warmup}", *(["train.precision=fp32"] if state.precision.dtype else [])]
    return UsageError(
        f"{what} (epoch {state.epochs_ended + 1}) is not finite; {kept}; "
        f"try a lower optimizer.lr or {' or '.join(more)}"
    )
