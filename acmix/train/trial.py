"""What only running a network tells: that it reads the images, answers with the classes, and has norms to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix.config import Config
from acmix.errors import UsageError
from acmix.train.distributed import World
from acmix.train.optim import Precision

# what PyTorch, timm and we raise on sizes that do not go together
FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError)


@torch.no_grad()
def try_forward(model: nn.Module, config: Config, world: World, precision: Precision) -> None:
    """Runs two blank images through the network, in evaluation mode, before anything is written or trained.

    Args:
        model: on its device; its weights, buffers and mode stay as they are.
        config: gives the images' size and channels, the classes and the batch.
        world: how many processes share a synchronised batch norm.
        precision: of the run.

    Raises:
        UsageError: the network cannot read such images or answers with something else, or a batch norm would see one
            value a channel in training.
    """
    name, batch_size, size = config.model.name, config.train.batch_size, config.data.img_size
    rows = min(2, batch_size)
    images = torch.zeros(rows, config.model.in_chans, size, size, device=world.device)  # (rows, C, H, W)
    alone: list[str] = []

    def look(norm: nn.Module, inputs: tuple[Any, ...], place: str) -> None:
        x = inputs[0]  # (rows, channels, ...)
        images_seen = batch_size * (world.size if isinstance(norm, nn.SyncBatchNorm) else 1)
        if x.numel() // (x.shape[0] * x.shape[1]) * images_seen == 1:
            alone.append(place)

    handles = [
        module.register_forward_pre_hook(lambda norm, inputs, place=place: look(norm, inputs, place))  # pyright: ignore[reportArgumentType]
        for place, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    was_training = model.training
    failure, logits = None, None
    try:
        model.eval()
        with precision.autocast():
            logits = model(images)
    except FORWARD_ERRORS as error:
        failure = error
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if alone:
        others = f" and {len(alone) - 1} other batch norms" if len(alone) > 1 else ""
        raise UsageError(
            f"batch norm on one value per channel: {alone[0]}{others} of {name!r} would see a 1x1 map of one image "
            f"(train.batch_size={batch_size}, data.img_size={size}); raise train.batch_size or data.img_size"
        )
    if failure is not None:
        said = " ".join(str(failure).split())[:300] or type(failure).__name__
        raise UsageError(
            f"{name!r} cannot read {config.model.in_chans}x{size}x{size} images: {said}; change data.img_size or "
            "model.args"
        ) from failure
    expected = rows, config.model.num_classes
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UsageError(
            f"{name!r} answers {rows} images with {found}; expected {list(expected)}, a number an image and class: "
            "check model.args"
        )
