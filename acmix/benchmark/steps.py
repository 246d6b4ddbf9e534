"""What is timed of a model: a forward pass, or a training step as the published recipe has it.

Every benchmark of models takes its batch, loss and step from here, alone or beside a peer, on one card or on N, so that
any two of their figures compare.

Shapes: B batch · h, w image
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import acmix
from acmix import ops
from acmix.benchmark.machine import DTYPES
from acmix.errors import UsageError
from acmix.models.registry import takes_img_size

if TYPE_CHECKING:
    from acmix.config import Config

CLASSES = 1000
# Two images show what is wrong with a kernel, and float64 on more takes longer than the measurement.
CHECKED_IMAGES = 2


@dataclass(frozen=True)
class Contestant:
    """A model and how it is run.

    Args:
        name: what tables call it.
        model: with its weights.
        implementation: what `ops.use` is told; None for what this library picks by itself.
        original: what it must equal: the model computed by the reference operators. None for a model that is taken as
            it comes, such as timm's.
        compiled: under `torch.compile`.
    """

    name: str
    model: nn.Module
    implementation: str | None = None
    original: nn.Module | None = None
    compiled: bool = False

    def operators(self) -> AbstractContextManager[None]:
        """The implementation of operators that it is run with."""
        return nullcontext() if self.implementation is None else ops.use(self.implementation)


@dataclass(frozen=True)
class Setting:
    """How models are run: phase "infer" or "train", "fp32" or "bf16" under autocast, a batch of square images."""

    phase: str
    dtype: str
    batch_size: int
    img_size: int
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return nullcontext() if self.dtype == "fp32" else torch.autocast(self.device.type, DTYPES[self.dtype])

    def recipe(self) -> Config:
        """The training configuration that a step stands for: the published recipe's defaults."""
        # inference is measured where there is no pydantic, too
        from acmix import config

        tree = {
            "data": {"img_size": self.img_size},
            "model": {"num_classes": CLASSES},
            "train": {"batch_size": self.batch_size, "precision": self.dtype},
        }
        return config.validate(tree, where="benchmark")

    def batch(self, images: int) -> tuple[Tensor, Tensor]:
        """Random images (B, 3, h, w) and labels (B,); in training mixed as the recipe does, labels (B, classes)."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(images, 3, self.img_size, self.img_size, generator=draw)
        labels = torch.randint(CLASSES, (images,), generator=draw)
        if self.phase == "train":
            from acmix.tasks import Classification

            mixup = Classification(self.recipe()).mixup
            assert mixup is not None, "the published recipe mixes images"
            with numpy_seeded():
                x, labels = mixup(x, labels)
        return x.to(self.device), labels.to(self.device)

    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The recipe's loss of logits (B, classes) and soft labels (B, classes), in float32 or wider."""
        from acmix.tasks import Classification

        criterion = Classification(self.recipe()).criterion
        return lambda logits, labels: criterion(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


@contextmanager
def numpy_seeded() -> Iterator[None]:
    """Lets numpy's global draws, which timm's mixup takes, be the same each time; afterwards they go on as before."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def build(name: str, setting: Setting, **arguments: Any) -> nn.Module:
    """A model of ours or timm's with weights drawn from seed 0, for the images of a setting.

    Raises:
        UsageError: the model cannot be built for such images.
    """
    if takes_img_size(name):
        arguments["img_size"] = setting.img_size
    torch.manual_seed(0)
    try:
        # what drops paths by chance would compute something else each time
        model = acmix.create_model(name, num_classes=CLASSES, drop_path_rate=0.0, **arguments).to(setting.device)
        fit_norms(model, setting)
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = " ".join(str(error).split())
        raise UsageError(f"cannot run {name!r} on images of {setting.img_size} px: {said}") from error
    return model


def fit_norms(model: nn.Module, setting: Setting) -> None:
    """Gives batch norms the statistics of a batch, as training would, so that values keep their size in inference."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(setting.batch(CHECKED_IMAGES)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model under `torch.compile`; in inference with its weights frozen, which lets the compiler pack them."""
    return torch.compile(model, options=None if model.training else {"freezing": True})


def runner(
    contestant: Contestant, setting: Setting, parallel: Callable[[nn.Module], nn.Module] = lambda model: model
) -> tuple[Callable[[], object], float]:
    """What is timed of a model, and the MiB of its parameters, buffers and optimizer's state.

    A training step is forward, the recipe's loss, backward, the recipe's clipping and AdamW, and gradients to None.
    Images are mixed beforehand. The learning rate is 0: the optimizer works as hard, and what was checked is timed.

    Args:
        contestant: the model.
        setting: how it is run.
        parallel: wraps the model for training on several cards.
    """
    model = contestant.model.train(setting.phase == "train")
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    called = compiled(model) if contestant.compiled else model
    images, labels = setting.batch(setting.batch_size)

    def infer() -> object:
        with contestant.operators(), torch.no_grad(), setting.autocast():
            return called(images)

    if setting.phase == "infer":
        return infer, held / 2**20
    from acmix.train.optim import Precision, create_optimizer

    recipe, loss = setting.recipe(), setting.loss()
    optimizer, precision = create_optimizer(model, recipe, setting.batch_size), Precision(setting.dtype, setting.device)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    called = parallel(model) if not contestant.compiled else called

    def train() -> None:
        with contestant.operators():
            with precision.autocast():
                logits = called(images)  # (B, classes)
            precision.backward(loss(logits, labels))
        precision.step(optimizer, parameters, recipe.train.clip_grad)

    # AdamW keeps two numbers a parameter
    return train, (held + 2 * sum(parameter.nbytes for parameter in parameters)) / 2**20
