"""What a batch means: the loss it gives, and an exact measure of a model on a data set."""

from __future__ import annotations

from acmix.config import Config
from acmix.tasks.classify import Classification
from acmix.tasks.evaluation import Evaluation
from acmix.tasks.task import Task

__all__ = ["Classification", "Evaluation", "Task", "task_of"]


def task_of(config: Config) -> Task:
    """The task that a configuration names."""
    if config.task.name == "detect":
        from acmix.tasks.detect import Detection

        return Detection(config)
    if config.task.name == "segment":
        from acmix.tasks.segment import Segmentation

        return Segmentation(config)
    return Classification(config)
