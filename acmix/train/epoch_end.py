"""What happens at the end of an epoch: the model is measured, the epoch's numbers are recorded, the log is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from acmix.config import Config
from acmix.errors import UsageError
from acmix.layers import path_rates
from acmix.tasks import Evaluation
from acmix.train.fsdp import gathered, share_buffers
from acmix.train.log import RunLog
from acmix.train.plots import draw_curves, draw_paths
from acmix.train.state import State

# Pictures of a run under way are no older than this and an epoch; drawing them takes a second.
DRAW_SECONDS = 60.0


def measured(config: Config, state: State, batches: Any, on_batch: Callable[[Any], None]) -> Evaluation:
    """The model's figures on validation images; every process calls it.

    Args:
        config: the run.
        state: of the run, with its weights.
        batches: the images.
        on_batch: called with every batch.
    """
    model = state.evaluated_model
    # every process measures what the first one saves
    share_buffers(model, state.world)
    # processes with other images call a detector or segmenter another number of times
    weights = nullcontext() if config.task.name == "classify" else gathered(model)
    # images of a validation have many sizes, each of which would be compiled anew
    with weights, torch.compiler.set_stance("force_eager"):
        return state.task.evaluate(
            model,
            batches,
            state.world.device,
            autocast=state.precision.autocast,
            memory_format=state.memory_format,
            on_batch=on_batch,
        )


def record(log: RunLog, state: State, number: int, epochs: int, result: Evaluation | None) -> bool:
    """Writes an epoch's numbers. Returns whether it is the best one so far.

    Args:
        log: where to.
        state: of the run; keeps the figures.
        number: the epoch's, counted from 1.
        epochs: how many there are to be.
        result: the figures, where they were measured.
    """
    train_loss, seconds, speed = state.meter.whole_epoch(state.global_batch_size)
    check_loss(state, train_loss, number)
    metrics = result.metrics if result else dict.fromkeys(state.task.metrics)
    loss = result.loss if result else None
    state.metrics = dict(**metrics, val_loss=loss, images_per_second=speed)
    log.epoch(
        epochs,
        result.images if result else None,
        epoch=number,
        step=state.step,
        train_loss=train_loss,
        val_loss=loss,
        **metrics,
        seconds=seconds,
        images_per_second=speed,
        rates=path_rates(state.evaluated_model),
        unreadable=state.unreadable.names,
    )
    if result is None or result.metrics[state.task.metric] <= state.best.get(state.task.metric, -1.0):
        return False
    state.best = dict({name: result.metrics[name] for name in state.task.metrics}, epoch=number)
    return True


def check_loss(state: State, train_loss: float, number: int) -> None:
    """Ends a run in whose epoch nothing was learned, on any process; `number` counts epochs from 1."""
    learned = torch.tensor(train_loss != 0 or not state.meter.epoch_steps, dtype=torch.int32)
    if state.world.size > 1:
        dist.all_reduce(learned, dist.ReduceOp.MAX, group=state.world.control)
    if not learned:
        raise UsageError(
            f"the loss was 0 in every step of epoch {number}: nothing in the training data counts; in label maps "
            "255 is ignored, and so is 0 unless task.ignore_zero=false: check what the files hold"
        )


class Pictures:
    """Draws a run's log.

    Args:
        output: the run's folder.
        log: hears where nothing can be drawn.
    """

    def __init__(self, output: Path, log: RunLog) -> None:
        self.output, self.log = output, log
        self.drawn = time.monotonic()

    def draw_if_old(self) -> None:
        """Draws where the pictures are old."""
        if time.monotonic() - self.drawn > DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draws what the log holds so far."""
        self.drawn = time.monotonic()
        try:
            draw_curves(self.output)
            draw_paths(self.output)
        except ImportError as error:
            self.log.say(f"curves.png and paths.png are not drawn, as matplotlib cannot be imported ({error})")
