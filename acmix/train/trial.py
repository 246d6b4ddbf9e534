"""What only running a network tells: that it reads the images, answers with the classes, and has norms to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix.config import Config
from acmix.errors import UsageError
from acmix.tasks import Task
from acmix.train.distributed import World
from acmix.train.optim import Precision
from acmix.train.sync_norm import is_synchronised

# the setting that the size of a task's images comes from
SIZE_OF = {"classify": "data.img_size", "detect": "task.min_size", "segment": "task.crop"}
# what PyTorch, timm and we raise on sizes that do not go together
FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError)


@torch.no_grad()
def try_forward(model: nn.Module, task: Task, config: Config, world: World, precision: Precision) -> None:
    """Runs two blank images through the network, in evaluation mode, before anything is written or trained.

    Args:
        model: on its device; its weights, buffers and mode stay as they are.
        task: gives the images, and the shape of the answer.
        config: gives the batch, and names for messages.
        world: how many processes share a synchronised batch norm.
        precision: of the run.

    Raises:
        UsageError: the network cannot read such images or answers with something else, or a batch norm would see one
            value a channel in training.
    """
    name, batch_size = config.model.name, config.train.batch_size
    rows = min(2, batch_size)
    images, expected = task.blank(rows)  # (rows, C, H, W), or a list of (C, H, W)
    images = [each.to(world.device) for each in images] if isinstance(images, list) else images.to(world.device)
    channels, height, width = images[0].shape
    key = SIZE_OF[config.task.name]
    size = f"{key}={height}" if height == width else f"{key} {height}x{width}"
    alone: list[str] = []

    def look(norm: nn.Module, inputs: tuple[Any, ...], place: str) -> None:
        x = inputs[0]  # (rows, channels, ...)
        # heads on regions see as many rows as there are regions
        images_seen = batch_size * (world.size if is_synchronised(norm) else 1)
        if x.numel() and x.shape[0] == rows and x[0, 0].numel() * images_seen == 1:
            alone.append(place)

    handles = [
        module.register_forward_pre_hook(lambda norm, inputs, place=place: look(norm, inputs, place))  # pyright: ignore[reportArgumentType]
        for place, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    was_training = model.training
    failure, answer = None, None
    try:
        model.eval()
        with precision.autocast():
            answer = model(images)
    except FORWARD_ERRORS as error:
        failure = error
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if alone:
        # a map that a head averages to one pixel stays one in a larger image
        pools = bool(getattr(model, "pools", False))
        others = f" and {len(alone) - 1} other batch norms" if len(alone) > 1 else ""
        raise UsageError(
            f"batch norm on one value per channel: {alone[0]}{others} of {name!r} would see a 1x1 map of one image "
            f"(train.batch_size={batch_size}, {size}); raise train.batch_size{'' if pools else f' or {key}'}"
        )
    if failure is not None:
        said = " ".join(str(failure).split())[:300] or type(failure).__name__
        raise UsageError(
            f"{name!r} cannot read {channels}x{height}x{width} images: {said}; change {key} or model.args"
        ) from failure
    if expected is not None and (not isinstance(answer, Tensor) or tuple(answer.shape) != expected):
        found = list(answer.shape) if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise UsageError(
            f"{name!r} answers {rows} images with {found}; expected {list(expected)}, a number an image and class: "
            "check model.args"
        )
