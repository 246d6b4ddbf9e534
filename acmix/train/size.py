"""What a network takes while it trains, known from its sizes before any of it is made."""

from __future__ import annotations

import math
import os

import torch

from acmix.config import Config
from acmix.errors import UsageError
from acmix.tasks import task_of
from acmix.train.checkpoint import check_tables

# numbers of 32 bits for each weight: itself, its gradient, and two moments
COPIES, BYTES = 4, 4
# classes from which a classifier is looked at, too
MANY_CLASSES = 50_000


def check_size(config: Config) -> None:
    """Refuses a network whose weights, gradients and moments do not fit into this machine's memory.

    A network of usual size, without arguments of its own, is not looked at.

    Raises:
        UsageError: says how much it needs.
    """
    model, task = config.model, config.task
    if not (model.args or task.args or max(model.num_classes, task.num_classes or 0) > MANY_CLASSES):
        return
    # the sizes of timm's networks are those before paths are added
    plain = config.model_copy(update={"model": model.model_copy(update={"add_conv_path": False, "freeze": False})})
    with torch.device("meta"):
        network = task_of(plain).build()
    needed = COPIES * BYTES * sum(each.numel() for each in network.parameters())
    asked = f"{model.name} with model.args={model.args}" + (f" and task.args={task.args}" if task.args else "")
    hint = "choose smaller sizes"
    if needed > memory():
        raise UsageError(
            f"{asked} needs {needed / 2**30:,.0f} GiB to train, and this machine has {memory() / 2**30:,.0f}; {hint}"
        )
    check_tables(network, f"{asked} needs", hint)


def memory() -> float:
    """The machine's memory in bytes; infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf
