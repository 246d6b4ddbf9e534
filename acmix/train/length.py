"""How long a run is, in steps and in epochs: `train.epochs`, or `train.steps` where that is set."""

from __future__ import annotations

from acmix.config import Config
from acmix.data.dataset import ceil_div


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    settings = config.train
    return settings.epochs * steps_per_epoch if settings.steps is None else settings.steps


def epochs_begun(config: Config, steps_per_epoch: int) -> int:
    """Epochs of the whole run; the last one may be cut short by `train.steps`."""
    return ceil_div(total_steps(config, steps_per_epoch), steps_per_epoch)


def length_in_epochs(config: Config, steps_per_epoch: int) -> float:
    """Epochs of the whole run, with the fraction of the last one."""
    settings = config.train
    return settings.epochs if settings.steps is None else settings.steps / steps_per_epoch


def end_of_epoch(config: Config, steps_per_epoch: int, epochs: int) -> int:
    """Steps that are done after so many epochs."""
    return min(epochs * steps_per_epoch, total_steps(config, steps_per_epoch))
