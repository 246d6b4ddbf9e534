"""From the settings of a detection or segmentation run to what its network is built with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from acmix.config import Config
from acmix.errors import UsageError
from acmix.heads.features import MISFITS
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
    body = dict(model.args)
    if model.drop_path_rate:
        body["drop_path_rate"] = model.drop_path_rate
    if model.pretrained and download:
        body["pretrained"] = True
    return dict(num_classes=task.num_classes, conv_path=model.conv_path, backbone_args=body, **(task.args or {}))


@contextmanager
def named_as_set(config: Config) -> Iterator[None]:
    """Names arguments that a network is not built with as the settings that they are.

    Raises:
        UsageError: in place of what the block raises for arguments that do not fit, or for want of memory.
    """
    task = config.task
    try:
        yield
    except UsageError as error:
        said = str(error).replace("backbone_args has", "model.args has")
        for section, arguments in (("task", task.args), ("model", config.model.args)):
            for key in arguments or {}:
                if said.startswith((f"{key}=", f"{key}:")):
                    raise UsageError(f"{section}.args.{said}") from error
        raise UsageError(said) from error
    except (*MISFITS, MemoryError) as error:
        # PyTorch may add where in its own source
        said = " ".join(str(error).partition("Exception raised from")[0].split())[:300] or type(error).__name__
        given = [*(f"task.args.{key}={value!r}" for key, value in (task.args or {}).items())]
        raise UsageError(
            f"cannot build {task.head} on {config.model.name!r}: {said}; check {', '.join(given) or 'model.args'}"
        ) from error
