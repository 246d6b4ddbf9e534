"""From the settings of a detection or segmentation run to what its network is built with."""

from __future__ import annotations

from typing import Any

from acmix.config import Config
from acmix.errors import UsageError
from acmix.models.build import check_model


def check_network(config: Config) -> None:
    """Refuses a network that cannot be meant, before data are looked for.

    Raises:
        UsageError: no such model, or settings that are for classification alone.
    """
    model, task = config.model, config.task.name
    for key in ("add_conv_path", "freeze"):
        if getattr(model, key):
            raise UsageError(f"model.{key} is for classification, not for task.name={task}; leave it out")
    if isinstance(model.pretrained, str):
        raise UsageError(
            f"model.pretrained={model.pretrained}: with task.name={task}, weights of a file are read by "
            f"model.checkpoint={model.pretrained}"
        )
    check_model(model)


def network_arguments(config: Config, *, download: bool) -> dict[str, Any]:
    """Arguments of `acmix.create_detector` and `acmix.create_segmenter` alike, but for the channels of the images.

    Args:
        config: its `model` and `task`.
        download: fetch the weights that `model.pretrained` asks a timm network for.
    """
    model, task = config.model, config.task
    further = dict(task.args or {})
    body: dict[str, Any] = {**model.args, **(further.pop("backbone_args", None) or {})}
    if model.drop_path_rate:
        body["drop_path_rate"] = model.drop_path_rate
    if model.pretrained and download:
        body["pretrained"] = True
    return dict(
        num_classes=task.num_classes,
        conv_path=model.conv_path,
        backbone_args=body,
        **further,
    )
