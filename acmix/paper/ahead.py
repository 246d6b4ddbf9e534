"""What can be wrong with a grid's runs, found before the first of them starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from acmix.config import Config
from acmix.data.classes import as_trained
from acmix.errors import UsageError
from acmix.paper.grid import Grid
from acmix.paper.runs import Run
from acmix.tasks import task_of
from acmix.train.optim import check_rates
from acmix.train.preparation import settle
from acmix.train.size import check_size


def check_arms(grid: Grid, data: str, output: Path) -> None:
    """Refuses arms whose network cannot be built, and data that the runs cannot train on.

    Args:
        grid, data, output: as of `acmix.paper.ablation.ablation`.

    Raises:
        UsageError: names the arm.
    """
    looked_at = []
    for arm in grid.arms:
        seed = grid.seeds[0]
        config = grid.configuration(arm, seed, data)
        try:
            check_network(config)
            config, _ = settle(config, output / Run(grid.name, arm, seed).name)
        except UsageError as error:
            raise grid.of_arm(arm, error) from None
        # mostly the same of all arms, and there may be a million images
        reads = (config.data, config.augment, config.task, config.model.num_classes, config.model.in_chans)
        if reads in looked_at:
            continue
        try:
            check_data(config)
        except UsageError as error:
            # of the first arm, what is wrong is rather the data
            raise grid.of_arm(arm, error) if looked_at else error from None
        looked_at.append(reads)


def check_network(config: Config) -> None:
    """Refuses settings of a network or a schedule that a run would refuse; builds it without memory for weights."""
    task_of(config).check()
    check_rates(config)
    check_size(config)
    # a network that looks at its own numbers while it is built is left to the run
    with suppress(RuntimeError), torch.device("meta"):
        task_of(config).build()


def check_data(config: Config) -> None:
    """Opens both splits as a run does."""
    task, place = task_of(config), dict[str, Any](rank=0, world_size=1, pin_memory=False)
    classes = list(task.train_loader(**place).dataset.classes)
    task.val_loader(**place, trained=as_trained(config.data, classes))
